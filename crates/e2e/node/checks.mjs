// What both scripts need: checks that stand alone, and the SDK with every request it makes on record.

import OpenAI from 'openai';

const checks = [];

/** Adds a check; its name is the function's. */
export function check(run) {
  checks.push(run);
}

export function expect(condition, message) {
  if (!condition) throw new Error(message);
}

/** Runs all checks, one failure hiding no other, and sets the exit code. */
export async function runAll() {
  let failed = 0;
  for (const run of checks) {
    try {
      await run();
      console.log(`ok ${run.name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${run.name}: ${error?.name}: ${error?.message}`);
    }
  }
  console.log(`${checks.length - failed} passed, ${failed} failed`);
  process.exitCode = failed ? 1 : 0;
}

/** A client, and the requests that it really sends: when, and what status came back. */
export function recorded(baseURL, apiKey, maxRetries = 0) {
  const sent = [];
  const fetchRecorded = async (...request) => {
    const entry = { at: performance.now() };
    sent.push(entry);
    const response = await fetch(...request);
    entry.status = response.status;
    entry.heard = performance.now();
    return response;
  };
  const client = new OpenAI({ baseURL, apiKey, maxRetries, fetch: fetchRecorded });
  return { client, sent };
}

/** The error of exactly class `kind` that `call` must end in. */
export async function refused(kind, call, code) {
  let answer;
  try {
    answer = await call();
  } catch (error) {
    const right = error?.constructor === kind;
    expect(right, `${error?.constructor?.name}, not ${kind.name}: ${error?.message}`);
    expect(code === undefined || error.code === code, `code is ${error.code}, not ${code}`);
    expect(error.requestID, 'the error has no request id');
    return error;
  }
  throw new Error(`no ${kind.name} was thrown: ${JSON.stringify(answer)}`);
}
