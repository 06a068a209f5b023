/** The worker: runs the page's calls one after another, except those that control a running training. */

import { wrapped } from "../core/index.js";
import type { Answer, Call, News } from "./protocol.js";
import { Studio } from "./studio.js";

interface Scope {
  readonly name: string;
  onmessage: ((event: MessageEvent<Call>) => void) | null;
  postMessage(message: News | Answer): void;
}

const scope = self as unknown as Scope;
const studio = new Studio(scope.name, (news) => scope.postMessage(news));

scope.onmessage = async ({ data: { id, verb, given } }) => {
  try {
    const work = studio[verb] as (...given: unknown[]) => Promise<unknown>;
    scope.postMessage({ kind: "done", id, result: await work.apply(studio, [...given]) });
  } catch (error) {
    const { code, message } = wrapped(error, "working");
    scope.postMessage({ kind: "failed", id, code, message });
  }
};
