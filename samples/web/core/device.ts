import { chosen } from "./choosing.js";
import { describe } from "./describe.js";
import type { Description } from "./description.js";
import { DeviceError, guarded } from "./errors.js";
import { readFrom } from "./files.js";
import { Inputs } from "./rows.js";
import { Runner } from "./runner.js";
import { scored } from "./scoring.js";
import { sha256 } from "./sha256.js";
import { EntryTraining } from "./training.js";
import type {
  Choice,
  ChooseOptions,
  Device,
  OpenOptions,
  Ort,
  Samples,
  ScoreOptions,
  Scores,
  Source,
} from "./types.js";

/**
 * Open a package: read and check device.json. Other files are read on use, and their size and SHA-256 checked.
 *
 * @param ort the module onnxruntime-web, onnxruntime-node or onnxruntime-react-native
 * @param source access to the files
 * @throws DeviceError wrong-file: it is not a package, or not one that this program supports
 */
export async function open(ort: Ort, source: Source, options: OpenOptions = {}): Promise<Device> {
  return guarded("opening the package", async () => {
    const bytes = await readFrom(source, "device.json");
    const description = describe(bytes);
    return new OpenDevice(description, await sha256(bytes), new Runner(ort, source, description, options));
  });
}

class OpenDevice implements Device {
  constructor(
    readonly description: Description,
    readonly sha256: string,
    private readonly runner: Runner,
  ) {}

  score(samples: Samples, options: ScoreOptions = {}): Promise<Scores> {
    return guarded("scoring", async () => {
      const inputs = new Inputs(this.runner, this.description.inputs, samples);
      return scored(this.runner, this.description.scoring, inputs, options);
    });
  }

  choose(scores: Scores, options: ChooseOptions = {}): Choice {
    return chosen(this.description, scores, options);
  }

  async training(entry: string): Promise<EntryTraining> {
    const found = this.description.entries.find(({ name }) => name === entry);
    if (found !== undefined)
      return guarded("opening an entry", () => EntryTraining.begin(this.runner, this.description, this.sha256, found));
    const names = this.description.entries.map(({ name }) => JSON.stringify(name)).join(", ");
    throw new DeviceError("wrong-option", `The package has no entry ${JSON.stringify(entry)}; it has ${names}.`);
  }

  file(name: string): Promise<Uint8Array> {
    return this.runner.file(name);
  }

  close(): Promise<void> {
    return this.runner.close();
  }
}
