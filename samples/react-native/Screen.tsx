import type { Choice, EpochReport, StepReport } from "@adabet-onnx/core";
import { useEffect, useRef, useState } from "react";
import { Button, FlatList, Image, Share, StyleSheet, Text, View } from "react-native";
import type { Pixels, Session } from "./session";

/** A photograph that was picked: where it is, and its pixels in the size that the model takes. */
export interface Photograph {
  readonly uri: string;
  readonly pixels: Pixels;
}

export interface ScreenProps {
  readonly session: Session;
  /** Let the user pick photographs; for example with expo-image-picker and expo-image-manipulator. */
  readonly pick: (width: number, height: number) => Promise<readonly Photograph[]>;
  /** Bytes there are for training. */
  readonly memory: number;
  /** Battery is low or the device is hot: training pauses while it is true. */
  readonly tired?: boolean;
}

interface Labelled extends Photograph {
  readonly label: number;
}

const FEWEST = 8;

/** Pick photographs, label them, score, choose, train, share what was learned. */
export function Screen({ session, pick, memory, tired = false }: ScreenProps) {
  const [photographs, setPhotographs] = useState<readonly Labelled[]>([]);
  const [choice, setChoice] = useState<Choice | null>(null);
  const [told, setTold] = useState("");
  const [delta, setDelta] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const alive = useRef(true);
  const { class_names, labels } = session.device.description;
  const classes = class_names ?? Array.from({ length: labels.classes ?? 0 }, (_, i) => String(i));

  useEffect(() => (tired ? session.pause() : session.resume()), [session, tired]);
  useEffect(() => {
    alive.current = true;
    return () => {
      alive.current = false;
      session.stop();
    };
  }, [session]);

  const say = (text: string) => alive.current && setTold(text);
  const run = (work: () => Promise<void>) => {
    setBusy(true);
    work()
      .catch((error: unknown) => say(error instanceof Error ? error.message : String(error)))
      .finally(() => alive.current && setBusy(false));
  };
  const samples = () => session.samples(photographs.map(({ pixels }) => pixels));

  const add = async () => {
    const { width, height } = session.pictureSize;
    const picked = await pick(width, height);
    setPhotographs((before) => [...before, ...picked.map((one) => ({ ...one, label: 0 }))]);
  };
  const relabel = (uri: string) =>
    setPhotographs((before) =>
      before.map((one) => (one.uri === uri ? { ...one, label: (one.label + 1) % classes.length } : one)),
    );
  const look = async () => {
    const found = await session.choose(samples(), memory, (done, of) => say(`Looking at photograph ${done} of ${of}`));
    setChoice(found);
    say(`Training ${found.entry} takes ${Math.ceil(found.bytes / 1e6)} MB`);
  };
  const report = (now: StepReport | EpochReport) => say(`Round ${now.epoch}, step ${now.step}: loss ${now.loss.toFixed(3)}`);
  const train = async () => {
    if (choice === null) return;
    const data = { samples: samples(), labels: photographs.map(({ label }) => label) };
    const made = await session.train(choice.entry, data, { onReport: report });
    await made.training.close();
    setDelta(made.delta);
    say("Trained.");
  };

  return (
    <View style={styles.screen}>
      <Button title="Add photographs" disabled={busy} onPress={() => run(add)} />
      <FlatList
        data={photographs}
        keyExtractor={({ uri }) => uri}
        renderItem={({ item }) => (
          <View style={styles.row}>
            <Image source={{ uri: item.uri }} style={styles.picture} />
            <Button title={classes[item.label] ?? "?"} disabled={busy} onPress={() => relabel(item.uri)} />
          </View>
        )}
      />
      <Button title="Look at them" disabled={busy || photographs.length < FEWEST} onPress={() => run(look)} />
      <Button title="Train" disabled={busy || choice === null} onPress={() => run(train)} />
      {busy && <Button title="Stop" onPress={() => session.stop()} />}
      {delta !== null && <Button title="Share" onPress={() => void Share.share({ url: delta, message: delta })} />}
      <Text accessibilityLiveRegion="polite">{tired ? "Paused: the device is tired." : told}</Text>
    </View>
  );
}

const styles = StyleSheet.create({
  screen: { flex: 1, padding: 16, gap: 8 },
  row: { flexDirection: "row", alignItems: "center", gap: 12, paddingVertical: 4 },
  picture: { width: 56, height: 56, borderRadius: 8 },
});
