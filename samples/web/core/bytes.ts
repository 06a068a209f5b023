/** The same bytes as a plain Uint8Array: node's Buffer is a subclass whose `slice` does not copy. */
export function plain(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** UTF-8 without TextEncoder and TextDecoder, which some engines of React Native lack. */
export function encoded(text: string): Uint8Array {
  const escaped = unescape(encodeURIComponent(text));
  return Uint8Array.from(escaped, (character) => character.charCodeAt(0));
}

/** @throws URIError the bytes are not UTF-8 */
export function decoded(bytes: Uint8Array): string {
  const parts: string[] = [];
  for (let at = 0; at < bytes.length; at += 8192) parts.push(String.fromCharCode(...bytes.subarray(at, at + 8192)));
  return decodeURIComponent(escape(parts.join("")));
}
