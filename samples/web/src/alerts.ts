/** Error messages that the user can dismiss. */

import { byId, element } from "./dom.js";

export function alert(text: string): void {
  const box = element("div", { class: "alert" }, element("p", {}, text));
  const close = element("button", { type: "button", "aria-label": "Close this message" }, "×");
  close.addEventListener("click", () => {
    const { nextElementSibling, previousElementSibling } = box;
    box.remove();
    const next = (nextElementSibling ?? previousElementSibling)?.querySelector("button");
    (next ?? byId("main")).focus();
  });
  box.append(close);
  const boxes = byId("alerts");
  boxes.append(box);
  while (boxes.childElementCount > 3) boxes.firstElementChild!.remove();
}

export function clearAlerts(): void {
  byId("alerts").replaceChildren();
}

/** Run a user action and report its errors. */
export async function told(work: () => Promise<unknown>): Promise<void> {
  clearAlerts();
  try {
    await work();
  } catch (error) {
    alert(error instanceof Error ? error.message : String(error));
  }
}
