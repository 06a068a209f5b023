// node app_seconds.mjs CHROMIUM SITE LIMIT: seconds that the page of samples/web takes for the demo, as JSON.

import { chromium } from "playwright-core";

import { serve } from "./site.mjs";

const [executablePath, folder, limit] = process.argv.slice(2);
const site = await serve(folder);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-quic"] });
try {
  const tab = await (await browser.newContext({ viewport: { width: 390, height: 844 } })).newPage();
  const until = (id, words) =>
    tab.waitForFunction(([id, words]) => new RegExp(words).test(document.querySelector(id).textContent), [id, words], {
      timeout: 300000,
    });
  const seconds = async (work) => {
    const began = performance.now();
    await work();
    return (performance.now() - began) / 1000;
  };
  const found = {};
  found.open = await seconds(async () => {
    await tab.goto(site.url);
    await tab.waitForSelector("main[aria-busy=false]");
  });
  await until("#offline", "without network");
  found.bytes = site.sent.bytes;
  await tab.click("#example");
  await until("#pictures-text", "900 pictures");
  await tab.fill("#limit", limit);
  await tab.press("#limit", "Enter");
  found.score = await seconds(async () => {
    await tab.click("#score");
    await until("#layers-text", "Chosen");
  });
  found.entry = /Chosen: ([^,]*)/.exec(await tab.textContent("#layers-text"))[1];
  await tab.fill("#rate", "0.005");
  await tab.fill("#epochs", "15");
  found.train = await seconds(async () => {
    await tab.click("#train");
    await tab.waitForFunction(
      () => Number(/\((\d+) of/.exec(document.querySelector("#now").textContent)?.[1]) > 340,
      undefined,
      { timeout: 300000 },
    );
  });
  found.right = Number(/\((\d+) of/.exec(await tab.textContent("#now"))[1]);
  console.log(JSON.stringify(found));
} finally {
  await browser.close();
  site.close();
}
