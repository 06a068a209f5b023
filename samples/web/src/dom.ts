/** Finds and creates elements. Text is always set as text, never as HTML. */

/** The element with an id. */
export function byId<T extends Element = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`index.html has no #${id}`);
  return found as Element as T;
}

type Child = Node | string;

export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: { readonly [name: string]: string } = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function drawing(
  tag: string,
  attributes: { readonly [name: string]: string | number },
  text?: string,
): SVGElement {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Set the text of an element if it has changed: only then do live regions announce it. */
export function say(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

const PAUSE = 3000;
let spoken = 0;
let timer: ReturnType<typeof setTimeout> | undefined;

/** Set the text of an element and have screen readers announce it; of several texts in quick succession, only the last.
 * */
export function announce(id: string, text: string): void {
  const place = byId(id);
  if (place.textContent === text) return;
  place.textContent = text;
  clearTimeout(timer);
  timer = setTimeout(
    () => {
      spoken = performance.now();
      byId("live").textContent = text;
    },
    Math.max(100, spoken + PAUSE - performance.now()),
  );
}

export function disable(id: string, disabled: boolean): void {
  byId<HTMLButtonElement>(id).disabled = disabled;
}

export function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

export function size(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 1024 ** 2 ? `${(bytes / 1024).toFixed(0)} KiB` : `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
}

export function counted(number: number, one: string, more: string): string {
  return `${number.toLocaleString("en")} ${number === 1 ? one : more}`;
}
