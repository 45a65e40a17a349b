// The official client for Node against limits: right classes, honoured waits, no retry of what waiting
// cannot mend.
//
//     node quota.mjs TENANTS        JSON, a base address and a key for each name:
//
//     exhausted    its window is used up
//     once         may ask once a minute
//     alone        may have one question under way
//     barred       may ask no expert that there is
//     picky        wants better answers than there are
//     nobody       of a coordinator without experts
//
// The client retries twice unless said otherwise, as it does by default.

import OpenAI from 'openai';

import { check, expect, recorded, refused, runAll } from './checks.mjs';

const RETRIES = 2;
const tenants = JSON.parse(process.argv[2]);
const tenant = (name, retries) => recorded(tenants[name].base, tenants[name].key, retries);

function ask(client) {
  const messages = [{ role: 'user', content: 'Hello!' }];
  return client.chat.completions.create({ model: 'auto', messages, max_tokens: 8 });
}

check(async function an_exhausted_window_is_asked_once() {
  const { client, sent } = tenant('exhausted', RETRIES);
  const error = await refused(OpenAI.RateLimitError, () => ask(client), 'insufficient_quota');
  expect(error.type === 'insufficient_quota', error.type);
  expect(error.headers.get('x-should-retry') === 'false', 'x-should-retry');
  expect(Number(error.headers.get('x-ratelimit-remaining-joules')) < 1, 'joules remain');
  expect(error.headers.get('x-ratelimit-limit-joules') !== null, 'no limit of joules');
  expect(error.message.includes('J are left'), error.message);
  expect(sent.length === 1, `${sent.length} requests`);
});

check(async function a_rate_is_in_the_headers_and_its_refusal_says_how_long_to_wait() {
  const { client } = tenant('once');
  const { response } = await ask(client).withResponse();
  const left = (what) => response.headers.get(`x-ratelimit-${what}-requests`);
  expect(left('limit') === '1' && left('remaining') === '0', `${left('remaining')} are left`);
  expect(/^(\d+h)?(\d+m)?\d+s$/.test(left('reset')), `reset is ${left('reset')}`);
  const error = await refused(OpenAI.RateLimitError, () => ask(client), 'rate_limit_exceeded');
  const wait = Number(error.headers.get('retry-after'));
  expect(wait >= 1 && wait <= 62, `retry-after is ${wait}`);
  const millis = Number(error.headers.get('retry-after-ms'));
  expect(Math.abs(millis - 1000 * wait) <= 1000, `retry-after-ms is ${millis}`);
  expect(error.headers.get('x-should-retry') !== 'false', 'waiting does help');
});

check(async function a_wait_is_honoured_and_then_the_question_answered() {
  // Of several at once only one is taken. Each of the others waits as long as it is told, which is longer
  // than the half second after which this client tries again by itself.
  const asking = Array.from({ length: 4 }, async () => {
    const { client, sent } = tenant('alone', 20);
    const completion = await ask(client);
    expect(completion.choices[0].message.content, 'the answer is empty');
    return sent;
  });
  const waits = (await Promise.all(asking)).flatMap((sent) =>
    sent.slice(1).map((again, n) => {
      expect(sent[n].status === 429, `tried again after ${sent[n].status}`);
      return again.at - sent[n].heard;
    }),
  );
  expect(waits.length >= 3, `${waits.length} waits`);
  // Timers may be a millisecond early.
  expect(waits.every((wait) => wait >= 998), `waited ${waits} ms`);
  expect(Math.min(...waits) < 3_000, `waited ${waits} ms`);
});

check(async function who_may_not_is_told_once() {
  const { client, sent } = tenant('barred', RETRIES);
  await refused(OpenAI.PermissionDeniedError, () => ask(client), 'not_allowed');
  expect(sent.length === 1, `${sent.length} requests`);
});

check(async function what_nobody_does_well_enough_is_refused_once() {
  const { client, sent } = tenant('picky', RETRIES);
  const call = () => ask(client);
  await refused(OpenAI.UnprocessableEntityError, call, 'quality_infeasible');
  expect(sent.length === 1, `${sent.length} requests`);
});

check(async function a_fleet_without_experts_is_tried_again_after_the_wait() {
  const { client, sent } = tenant('nobody', 1);
  const call = () => ask(client);
  const error = await refused(OpenAI.InternalServerError, call, 'no_expert_available');
  expect(error.status === 503, `${error.status}`);
  expect(sent.length === 2, `${sent.length} requests`);
  const told = Number(error.headers.get('retry-after-ms'));
  const waited = sent[1].at - sent[0].heard;
  expect(told >= 1_000 && waited >= told - 2, `told ${told} ms, waited ${waited} ms`);
});

await runAll();
