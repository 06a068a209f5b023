export { fromBase64, replace } from "./files";
export type { Base64FileSystem, FileSystem } from "./files";
export { Screen } from "./Screen";
export type { Photograph, ScreenProps } from "./Screen";
export { Session } from "./session";
export type { Pixels, TrainingOptions } from "./session";
