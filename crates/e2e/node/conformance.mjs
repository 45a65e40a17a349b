// Conformance of a live system with the official `openai` client for Node.
//
//     node conformance.mjs BASE_URL API_KEY        BASE_URL ends in /v1
//
// The system serves the three small experts named below. What both official clients read the same way
// (framing, bad bytes, envelopes) is checked in ../python/conformance.py; here is what this client does
// itself: its stream decoder, its stream helper, its error classes, its handling of aborts. Prints
// `ok NAME` for each check; exits 1 if any failed.

import OpenAI from 'openai';

import { check, expect, recorded, refused, runAll } from './checks.mjs';

const SMOL = 'smollm2-135m-instruct';
const EXPERTS = [SMOL, 'gemma-3-270m', 'qwen2.5-coder-0.5b-instruct'];
const QUESTION = [
  { role: 'user', content: 'What is the capital of France? Answer in one word.' },
];

const [base, key, ...rest] = process.argv.slice(2);
if (!key || rest.length) {
  console.error('usage: conformance.mjs BASE_URL API_KEY');
  process.exit(2);
}

const { client } = recorded(base, key);
const plain = { model: 'auto', messages: QUESTION, max_tokens: 16, temperature: 0 };
const ask = (options = {}, transport = {}) =>
  client.chat.completions.create({ ...plain, ...options }, transport);

async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

function answered(completion) {
  expect(completion.object === 'chat.completion', completion.object);
  const [choice] = completion.choices;
  expect(choice.message.role === 'assistant', choice.message.role);
  expect(['stop', 'length'].includes(choice.finish_reason), choice.finish_reason);
  expect(choice.message.content, 'the answer is empty');
  const { prompt_tokens, completion_tokens, total_tokens } = completion.usage;
  expect(prompt_tokens > 0 && completion_tokens > 0, JSON.stringify(completion.usage));
  expect(total_tokens === prompt_tokens + completion_tokens, JSON.stringify(completion.usage));
  return choice.message.content;
}

check(async function models_are_listed_page_by_page_and_retrieved() {
  const listed = await all(client.models.list());
  const names = listed.map((model) => model.id);
  for (const name of ['auto', ...EXPERTS]) {
    expect(names.includes(name), `${name} is not listed: ${names}`);
    expect((await client.models.retrieve(name)).id === name, name);
  }
});

check(async function every_expert_answers_by_its_own_name() {
  for (const name of EXPERTS) {
    const completion = await ask({ model: name });
    answered(completion);
    const [model, node] = completion.model.split('@');
    expect(model === name && node, `asked ${name}, answered by ${completion.model}`);
  }
});

check(async function a_completion_comes_with_its_request_id_and_what_it_used() {
  const { data, response, request_id } = await ask().withResponse();
  answered(data);
  expect(request_id && request_id === response.headers.get('x-request-id'), request_id);
  expect(data._request_id === request_id, data._request_id);
  expect(data.moe2.energy_j > 0, JSON.stringify(data.moe2));
});

check(async function a_completion_is_streamed_in_chunks() {
  const chunks = await all(await ask({ stream: true }));
  expect(chunks.every((chunk) => chunk.object === 'chat.completion.chunk'), 'object');
  for (const field of ['id', 'created', 'model']) {
    const values = new Set(chunks.map((chunk) => chunk[field]));
    expect(values.size === 1, `${field} changes within a stream: ${[...values]}`);
  }
  expect(chunks[0].choices[0].delta.role === 'assistant', 'the first delta has no role');
  const last = chunks.at(-1).choices[0];
  expect(['stop', 'length'].includes(last.finish_reason), last.finish_reason);
  const text = chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join('');
  expect(text, 'nothing was streamed');
});

check(async function include_usage_adds_one_chunk_before_the_end() {
  const chunks = await all(
    await ask({ stream: true, stream_options: { include_usage: true } }),
  );
  const last = chunks.pop();
  expect(last.choices.length === 0, 'the usage chunk has choices');
  expect(last.usage?.completion_tokens > 0, 'no usage');
  expect(chunks.every((chunk) => chunk.usage === null), 'usage is given early, or absent');
});

check(async function the_stream_helper_puts_the_same_answer_together() {
  const stream = client.chat.completions.stream({
    ...plain,
    model: SMOL,
    stream_options: { include_usage: true },
  });
  const streamed = answered(await stream.finalChatCompletion());
  const whole = answered(await ask({ model: SMOL }));
  expect(streamed === whole, `${streamed} then ${whole}`);
});

check(async function a_structured_choice_is_one_of_the_options() {
  const options = ['Paris', 'Berlin'];
  const completion = await ask({ structured_outputs: { choice: options } });
  expect(options.includes(answered(completion)), completion.choices[0].message.content);
});

check(async function a_stream_that_is_aborted_ends_quietly_and_the_next_question_is_answered() {
  const story = [{ role: 'user', content: 'Tell me a long story about the sea.' }];
  const stream = await ask({ messages: story, max_tokens: 512, stream: true });
  for await (const _ of stream) break;
  expect(stream.controller.signal.aborted, 'leaving the loop aborts the request');
  answered(await ask());
});

check(async function a_client_that_waits_no_longer_gives_up_by_itself() {
  const call = () => ask({ max_tokens: 512 }, { timeout: 1 });
  try {
    await call();
  } catch (error) {
    expect(error instanceof OpenAI.APIConnectionTimeoutError, error?.constructor?.name);
    answered(await ask());
    return;
  }
  throw new Error('an answer within a millisecond');
});

check(async function a_bad_key_is_refused() {
  const stranger = recorded(base, 'sk-not-a-key').client;
  const call = () => stranger.chat.completions.create(plain);
  await refused(OpenAI.AuthenticationError, call, 'invalid_api_key');
});

check(async function an_unknown_model_is_not_found() {
  const call = () => ask({ model: 'no-such-model' });
  await refused(OpenAI.NotFoundError, call, 'model_not_found');
  const retrieve = () => client.models.retrieve('no-such-model');
  await refused(OpenAI.NotFoundError, retrieve, 'model_not_found');
});

check(async function bad_requests_name_the_field() {
  const empty = await refused(OpenAI.BadRequestError, () => ask({ messages: [] }));
  expect(empty.param === 'messages', `param is ${empty.param}`);
  const tools = [{ type: 'function', function: { name: 'f', parameters: { type: 'object' } } }];
  const unsupported = await refused(OpenAI.BadRequestError, () => ask({ tools }));
  expect(unsupported.param === 'tools', `param is ${unsupported.param}`);
});

check(async function a_prompt_beyond_the_context_is_refused() {
  const long = [{ role: 'user', content: 'one two three '.repeat(25_000) }];
  const call = () => ask({ model: SMOL, messages: long });
  await refused(OpenAI.BadRequestError, call, 'context_length_exceeded');
});

check(async function a_budget_that_cannot_be_met_is_refused_with_the_smallest_that_can() {
  const call = () => ask({ moe2: { delay_budget_ms: 0.001 } });
  const error = await refused(OpenAI.UnprocessableEntityError, call, 'budget_infeasible');
  expect(error.error.moe2.smallest_delay_ms > 0.001, JSON.stringify(error.error));
});

await runAll();
