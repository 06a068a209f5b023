/* Runs betti.ts of samples/web/core, compiled, as run_betti.c runs betti.c; see there.
 *
 *     node run_betti.mjs betti.js numbers FILE | subsets FILE SUBSETS | time FILE SUBSETS | matrix FILE
 */
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [script, what, first, second] = process.argv.slice(2);
const { Loops, firstBettiNumber } = await import(pathToFileURL(script));

const view = (path) => {
  const { buffer, byteOffset, byteLength } = readFileSync(path);
  return new DataView(buffer, byteOffset, byteLength);
};

function* matrices(file) {
  if (file.getUint32(0, true) !== 0x31544542) throw new Error("a file does not start with BET1");
  let at = 8;
  for (let left = file.getUint32(4, true); left > 0; left--) {
    const [points, bytes] = [file.getUint16(at, true), file.getUint16(at + 2, true)];
    const distance = new Float64Array(points * points);
    at += 8;
    for (let i = 0; i < points; i++) {
      for (let j = i + 1; j < points; j++, at += bytes) {
        const length = bytes === 8 ? file.getFloat64(at, true) : file.getFloat32(at, true);
        distance[i * points + j] = distance[j * points + i] = length;
      }
    }
    yield { distance, points };
  }
}

function* subsets(file) {
  for (let at = 0; at < file.byteLength;) {
    const [count, size] = [file.getUint32(at, true), file.getUint32(at + 4, true)];
    at += 8;
    const next = () => file.getUint32((at += 4) - 4, true);
    yield Array.from({ length: count }, () => Uint32Array.from({ length: size }, next));
  }
}

function countSubsets(print) {
  const chosen = subsets(view(second));
  let spent = 0;
  for (const { distance, points } of matrices(view(first))) {
    const each = chosen.next().value;
    const began = process.cpuUsage();
    let found;
    try {
      found = new Loops(distance, points).count(each);
    } catch (error) {
      found = [error.message];
    }
    const { user, system } = process.cpuUsage(began);
    spent += (user + system) / 1000;
    if (print) console.log(found.join(" "));
  }
  return spent;
}

function whole() {
  const file = view(first);
  const distance = Float64Array.from({ length: file.byteLength / 8 }, (_, k) => file.getFloat64(8 * k, true));
  try {
    console.log(firstBettiNumber(distance, Math.round(Math.sqrt(distance.length))));
  } catch (error) {
    console.log(error.message);
  }
}

function numbers() {
  for (const { distance, points } of matrices(view(first))) console.log(firstBettiNumber(distance, points));
}

if (what === "numbers") numbers();
if (what === "subsets") countSubsets(true);
if (what === "time") console.log(countSubsets(false));
if (what === "matrix") whole();
