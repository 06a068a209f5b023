// The names and types that samples/react-native uses from packages that are too large for tests.

declare module "onnxruntime-react-native" {
  export * from "onnxruntime-common"; // as its own index.d.ts does
}

declare module "react" {
  export function useState<T>(first: T): [T, (next: T | ((before: T) => T)) => void];
  export function useEffect(effect: () => void | (() => void), on: readonly unknown[]): void;
  export function useRef<T>(first: T): { current: T };
}

declare module "react/jsx-runtime" {
  export namespace JSX {
    interface Element {
      readonly type: unknown;
    }
    interface ElementChildrenAttribute {
      children: unknown;
    }
    interface IntrinsicElements {
      readonly [name: string]: never;
    }
  }
}

declare module "react-native" {
  type Element = import("react/jsx-runtime").JSX.Element;
  type Node = Element | string | number | boolean | null | undefined | readonly Node[];
  interface Style {
    readonly [name: string]: string | number;
  }
  export function View(props: { style?: Style; children?: Node }): Element;
  export function Text(props: { style?: Style; accessibilityLiveRegion?: "none" | "polite"; children?: Node }): Element;
  export function Image(props: { source: { uri: string }; style?: Style }): Element;
  export function Button(props: { title: string; disabled?: boolean; onPress: () => void }): Element;
  export function FlatList<T>(props: {
    data: readonly T[];
    keyExtractor: (item: T) => string;
    renderItem: (given: { item: T }) => Element;
  }): Element;
  export const Share: { share(content: { url?: string; message: string }): Promise<unknown> };
  export const StyleSheet: { create<T extends { [name: string]: Style }>(styles: T): T };
}

declare const console: { log(line: string): void };

declare function setTimeout(work: (value: void) => void, milliseconds: number): unknown;
