/** Builds the view of the current state for the page. */

import { DeviceError } from "../core/index.js";
import type { Choice } from "../core/index.js";
import { neededBytes } from "../core/choosing.js";
import type { Album } from "./album.js";
import type { Engine } from "./engine.js";
import type { EntryView, ModelView, RunView, View } from "./protocol.js";
import type { Run } from "./run.js";
import type { Session } from "./session.js";

/** An open package with everything that belongs to it. */
export interface Work {
  readonly engine: Engine;
  readonly album: Album;
  readonly session: Session;
  readonly run: Run;
  /** Whether it is the site's own package. */
  readonly fromSite: boolean;
}

/**
 * @param choice the choice by scores; an error if nothing fits, null without scores
 * @param gpu whether there is one
 */
export function viewOf(work: Work, choice: Choice | DeviceError | null, example: boolean, gpu: boolean): View {
  const { state, stored } = work.session;
  return {
    model: modelOf(work, example),
    pictures: work.album.view,
    scores: state.scores?.layers.map(({ name, score }) => ({ name, score })) ?? null,
    entries: entriesOf(work, choice),
    entry: state.entry,
    limit: state.limit,
    note: choice instanceof DeviceError ? choice.message : null,
    run: runOf(work),
    gpu: { there: gpu, used: work.run.useGpu },
    stored,
  };
}

function modelOf({ engine: { device }, album: { frame, classes }, fromSite }: Work, example: boolean): ModelView {
  const { description, sha256 } = device;
  const { batch_size: batchSize } = description.training;
  const bytes = description.files.reduce((sum, file) => sum + file.bytes, 0);
  return {
    name: description.model,
    sha256,
    ...frame,
    classes,
    batchSize,
    scored: description.scoring !== null,
    bytes,
    example,
    fromSite,
  };
}

function entriesOf({ engine, session }: Work, choice: Choice | DeviceError | null): EntryView[] {
  const { entries, training } = engine.device.description;
  const { limit } = session.state;
  const candidates = choice === null || choice instanceof DeviceError ? [] : choice.candidates;
  return entries.map((entry) => {
    const bytes = neededBytes(entry, training.batch_size);
    const worth = candidates.find((one) => one.entry === entry.name)?.worth ?? null;
    return {
      name: entry.name,
      layers: entry.layers,
      trained: entry.trained,
      bytes,
      fits: limit === null || bytes <= limit,
      worth,
    };
  });
}

function runOf({ run, session: { state } }: Work): RunView {
  return {
    state: run.state,
    epoch: state.history[state.history.length - 1]?.epoch ?? 0,
    epochs: state.epochs,
    rate: state.rate,
    history: state.history,
    curve: [...state.curve, ...run.pending],
    stepsPerEpoch: state.stepsPerEpoch,
    where: run.useGpu ? "on the GPU (WebGPU)" : "on the processor (WebAssembly)",
  };
}
