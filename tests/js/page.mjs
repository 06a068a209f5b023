// node page.mjs CHROMIUM PAGE.html WIDTH [SCREENSHOT.png [SELECTOR]]: open a page offline; print possible problems as
// JSON: console messages, requests, whether it scrolls sideways, and its headings and tables.
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [executablePath, page, width, screenshot, selector] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
try {
  const context = await browser.newContext({ offline: true, viewport: { width: Number(width), height: 900 } });
  const tab = await context.newPage();
  const messages = [];
  const requests = [];
  tab.on("console", (message) => messages.push(`${message.type()}: ${message.text()}`));
  tab.on("pageerror", (error) => messages.push(`error: ${error}`));
  tab.on("request", (request) => requests.push(request.url()));
  await tab.goto(pathToFileURL(page).href);
  const found = await tab.evaluate(() => ({
    title: document.title,
    headings: [...document.querySelectorAll("h1, h2")].map((heading) => heading.textContent),
    rows: [...document.querySelectorAll("table")].map((table) => table.querySelectorAll("tbody tr").length),
    figures: [...document.querySelectorAll("figure svg")].map((figure) => figure.getBoundingClientRect().width),
    sideways: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    twice: [...document.querySelectorAll("[id]")].map((node) => node.id).filter((id, i, all) => all.indexOf(id) !== i),
    bold: document.querySelectorAll("script, b.injected").length,
  }));
  if (screenshot) {
    if (selector) await tab.locator(selector).screenshot({ path: screenshot });
    else await tab.screenshot({ path: screenshot, fullPage: true });
  }
  console.log(JSON.stringify({ ...found, messages, requests: requests.filter((url) => !url.startsWith("data:")) }));
} finally {
  await browser.close();
}
