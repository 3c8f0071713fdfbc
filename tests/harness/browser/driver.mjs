// Drives one page of Chromium for tests/harness/browser.rs: reads a command a line from stdin, and answers each with a line.
// Ends with its stdin, and the browser with it.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [module, executable, options] = process.argv.slice(2);
const { chromium } = await import(pathToFileURL(module));
const { width, height, script, reducedMotion } = JSON.parse(options);

const browser = await chromium.launch({
  executablePath: executable,
  // as root it has no sandbox of its own; nothing but this machine is asked for anything
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
  ],
});
const page = await browser.newPage({ viewport: { width, height }, reducedMotion });
if (script) await page.addInitScript(script);
const seen = { requests: [], errors: [] };
page.on("request", (request) => seen.requests.push(request.url()));
page.on("pageerror", (error) => seen.errors.push(String(error)));
page.on("console", (line) => {
  // a 404 is what a stream that is off answers
  if (line.type() === "error" && !line.text().startsWith("Failed to load resource")) seen.errors.push(line.text());
});

const commands = {
  open: ({ url }) => page.goto(url, { waitUntil: "domcontentloaded" }).then(() => null),
  evaluate: ({ code }) => page.evaluate(code),
  press: ({ key }) => page.keyboard.press(key).then(() => null),
  screenshot: ({ path }) => page.screenshot({ path }).then(() => null),
  seen: () => seen,
};

const answer = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
answer({ ready: browser.version() });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    answer({ value: (await commands[command.do](command)) ?? null });
  } catch (error) {
    answer({ error: String(error) });
  }
}
await browser.close();
