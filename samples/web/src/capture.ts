/** The drawing canvas, with pointer and keyboard, and the camera. */

import { byId } from "./dom.js";

const PEN = 22;
const KEYS: { readonly [key: string]: readonly [number, number] } = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

export class Capture {
  private readonly canvas = byId<HTMLCanvasElement>("canvas");
  private readonly video = byId<HTMLVideoElement>("video");
  private readonly context = this.canvas.getContext("2d", { willReadFrequently: true })!;
  private last: readonly [number, number] | null = null;
  private pen = { x: this.canvas.width / 2, y: this.canvas.height / 2, down: false };
  private stream: MediaStream | null = null;

  /** @param onCamera called when the camera is switched on or off */
  constructor(private readonly onCamera: (on: boolean) => void) {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.last = this.place(event);
      this.stroke(this.last, this.last);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.last === null) return;
      for (const one of event.getCoalescedEvents?.() ?? [event]) {
        const next = this.place(one);
        this.stroke(this.last, next);
        this.last = next;
      }
    });
    for (const end of ["pointerup", "pointercancel"] as const) canvas.addEventListener(end, () => (this.last = null));
    canvas.addEventListener("keydown", (event) => this.key(event));
    this.clear();
  }

  /** Whether there is nothing to classify. */
  get empty(): boolean {
    return this.stream === null && this.blank;
  }

  private blank = true;

  get usesCamera(): boolean {
    return this.stream !== null;
  }

  /** The drawing, or the current camera image. */
  async picture(): Promise<ImageBitmap> {
    if (this.stream === null) return createImageBitmap(this.canvas);
    const { videoWidth: width, videoHeight: height } = this.video;
    const side = Math.min(width, height);
    return createImageBitmap(this.video, (width - side) / 2, (height - side) / 2, side, side);
  }

  clear(): void {
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.blank = true;
    this.pen = { ...this.pen, down: false };
  }

  /** @throws DOMException there is no camera, or the user or the system does not allow it */
  async useCamera(on: boolean): Promise<void> {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    if (on) {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
      this.video.srcObject = stream;
      await this.video.play();
      this.stream = stream;
    }
    this.video.hidden = this.stream === null;
    this.canvas.hidden = this.stream !== null;
    this.onCamera(this.stream !== null);
  }

  private place(event: PointerEvent): readonly [number, number] {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - left) / width) * this.canvas.width,
      ((event.clientY - top) / height) * this.canvas.height,
    ];
  }

  private stroke([x0, y0]: readonly [number, number], [x1, y1]: readonly [number, number]): void {
    const { context } = this;
    context.strokeStyle = "#fff";
    context.lineWidth = PEN;
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
    context.stroke();
    this.blank = false;
  }

  private key(event: KeyboardEvent): void {
    const move = KEYS[event.key];
    const { pen, canvas } = this;
    if (event.key === " ") {
      pen.down = !pen.down;
      if (pen.down) this.stroke([pen.x, pen.y], [pen.x, pen.y]);
    } else if (move !== undefined) {
      const within = (value: number, most: number) => Math.min(Math.max(value, PEN / 2), most - PEN / 2);
      const [x, y] = [
        within(pen.x + (move[0] * PEN) / 2, canvas.width),
        within(pen.y + (move[1] * PEN) / 2, canvas.height),
      ];
      if (pen.down) this.stroke([pen.x, pen.y], [x, y]);
      this.pen = { ...pen, x, y };
    } else return;
    event.preventDefault();
  }
}
