"""Conformance of a live system with the official `openai` client (2 or later).

    python conformance.py BASE_URL API_KEY        BASE_URL ends in /v1

The system serves the three small experts named below. Every check stands alone, so one failure
hides no other; where the SDK would repair or retry what is looked at (framing, bad bytes, error
envelopes) the check speaks HTTP itself. With MOE2_ADMIN_KEY set, the fleet view is asked as well
whether aborted work has really ended. Prints `ok NAME` for each check; exits 1 if any failed.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import openai

# The client's own HTTP library, so that nothing else has to be installed: its name depends on the
# client's version.
try:
    import httpx2 as httpx
except ImportError:
    import httpx

SMOL = "smollm2-135m-instruct"
EXPERTS = [SMOL, "gemma-3-270m", "qwen2.5-coder-0.5b-instruct"]
# Seconds. Three tiny models on a few CPU cores answer 20 queued requests well within it.
PATIENCE = 300.0
# Seconds in which the fleet view must show that aborted work has ended.
SETTLED = 3.0
PARALLEL = 20
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]

CHECKS = []


class Live:
    """The system under test, through the SDK and through plain HTTP."""

    def __init__(self, base, key):
        self.base, self.key = base.rstrip("/"), key
        self.sdk = openai.OpenAI(base_url=self.base, api_key=key, timeout=PATIENCE)
        # Errors are looked at as they come, not after the SDK's retries.
        self.once = self.sdk.with_options(max_retries=0)
        self.http = httpx.Client(timeout=PATIENCE, headers={"authorization": f"Bearer {key}"})

    def ask(self, **options):
        request = {"model": "auto", "messages": QUESTION, "max_tokens": 16, "temperature": 0}
        return self.once.chat.completions.create(**(request | options))

    def post(self, content, kind="application/json"):
        url = f"{self.base}/chat/completions"
        return self.http.post(url, content=content, headers={"content-type": kind})


def check(function):
    CHECKS.append(function)
    return function


def expect(condition, message):
    if not condition:
        raise AssertionError(message)


def refused(kind, call, code=None):
    """The error of class `kind` that `call` must end in."""
    try:
        call()
    except kind as error:
        if code is not None:
            expect(error.code == code, f"code is {error.code!r}, not {code!r}: {error}")
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def envelope(response, status):
    """The `error` object of a plain response, checked for its four fields."""
    expect(response.status_code == status, f"{response.status_code}, not {status}: {response.text[:300]}")
    kind = response.headers.get("content-type", "")
    expect(kind.startswith("application/json"), f"content type {kind!r}")
    error = response.json()["error"]
    for field in ("message", "type", "param", "code"):
        expect(field in error, f"the envelope has no {field!r}: {error}")
    expect(isinstance(error["message"], str) and error["message"], f"no message: {error}")
    expect(isinstance(error["type"], str) and error["type"], f"no type: {error}")
    expect("x-request-id" in response.headers, "no x-request-id on an error")
    return error


def answered(completion):
    """The text of a completion, checked for shape."""
    expect(completion.object == "chat.completion", completion.object)
    choice = completion.choices[0]
    expect(choice.message.role == "assistant", choice.message.role)
    expect(choice.finish_reason in ("stop", "length"), choice.finish_reason)
    usage = completion.usage
    expect(usage.prompt_tokens > 0 and usage.completion_tokens > 0, f"{usage}")
    expect(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, f"{usage}")
    expect(choice.message.content, "the answer is empty")
    return choice.message.content


@check
def models_are_listed_and_retrieved(live):
    listed = {model.id for model in live.once.models.list()}
    for name in ["auto", *EXPERTS]:
        expect(name in listed, f"{name} is not listed: {sorted(listed)}")
        expect(live.once.models.retrieve(name).id == name, name)


@check
def auto_routes_to_one_of_the_experts(live):
    answered(live.ask())


@check
def every_expert_answers_by_its_own_name(live):
    for name in EXPERTS:
        completion = live.ask(model=name)
        answered(completion)
        # Replies name the deployment, so that a fleet with several of one model can be told apart.
        model, _, node = completion.model.partition("@")
        expect(model == name and node, f"asked {name}, answered by {completion.model}")


@check
def a_completion_is_streamed_in_chunks(live):
    chunks = list(live.ask(stream=True))
    expect(all(chunk.object == "chat.completion.chunk" for chunk in chunks), "object")
    for field in ("id", "created", "model"):
        values = {getattr(chunk, field) for chunk in chunks}
        expect(len(values) == 1, f"{field} changes within a stream: {values}")
    expect(chunks[0].choices[0].delta.role == "assistant", "the first delta has no role")
    last = chunks[-1].choices[0]
    expect(last.finish_reason in ("stop", "length"), f"last finish_reason {last.finish_reason!r}")
    expect(not last.delta.content, "the last delta is not empty")
    expect(all(c.choices[0].finish_reason is None for c in chunks[:-1]), "finished twice")
    expect("".join(c.choices[0].delta.content or "" for c in chunks), "nothing was streamed")


@check
def include_usage_adds_one_chunk_before_the_end(live):
    chunks = list(live.ask(stream=True, stream_options={"include_usage": True}))
    expect(chunks[-1].choices == [], "the usage chunk has choices")
    expect(chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0, "no usage")
    for chunk in chunks[:-1]:
        expect("usage" in chunk.model_fields_set, "usage is absent, not null, before the last chunk")
        expect(chunk.usage is None, "usage is given early")


@check
def a_stream_ends_with_done_and_says_it_is_one(live):
    body = {"model": SMOL, "messages": QUESTION, "max_tokens": 8, "stream": True}
    response = live.post(json.dumps(body))
    kind = response.headers["content-type"]
    expect(response.status_code == 200 and kind.startswith("text/event-stream"), kind)
    events = [event for event in response.text.split("\n\n") if event and not event.startswith(":")]
    expect(all(event.startswith("data: ") for event in events), events[:3])
    expect(events[-1] == "data: [DONE]", f"the last event is {events[-1]!r}")
    for event in events[:-1]:
        json.loads(event.removeprefix("data: "))


@check
def a_structured_choice_is_one_of_the_options(live):
    options = ["Paris", "Berlin"]
    completion = live.ask(extra_body={"structured_outputs": {"choice": options}})
    expect(completion.choices[0].message.content in options, completion.choices[0].message.content)


@check
def a_budget_that_cannot_be_met_is_refused(live):
    body = {"moe2": {"delay_budget_ms": 0.001}}
    call = lambda: live.ask(extra_body=body)
    error = refused(openai.UnprocessableEntityError, call, "budget_infeasible")
    expect(error.status_code == 422, error.status_code)


@check
def a_bad_key_is_refused(live):
    stranger = live.once.with_options(api_key="sk-not-a-key")
    call = lambda: stranger.chat.completions.create(model="auto", messages=QUESTION)
    refused(openai.AuthenticationError, call, "invalid_api_key")


@check
def an_unknown_model_is_not_found(live):
    refused(openai.NotFoundError, lambda: live.ask(model="no-such-model"), "model_not_found")
    call = lambda: live.once.models.retrieve("no-such-model")
    refused(openai.NotFoundError, call, "model_not_found")


@check
def a_body_of_two_megabytes_is_too_large(live):
    body = {"model": "auto", "messages": [{"role": "user", "content": "x" * 2_000_000}]}
    envelope(live.post(json.dumps(body)), 413)


@check
def malformed_json_is_a_bad_request(live):
    for body in ['{"model": "auto", "messages": [', "", "[]", "null"]:
        envelope(live.post(body), 400)


@check
def invalid_utf8_is_a_bad_request(live):
    body = b'{"model":"auto","messages":[{"role":"user","content":"\xff\xfe"}]}'
    envelope(live.post(body), 400)


@check
def empty_messages_are_a_bad_request(live):
    error = refused(openai.BadRequestError, lambda: live.ask(messages=[]))
    expect(error.param == "messages", f"param is {error.param!r}")


@check
def another_content_type_is_unsupported(live):
    body = json.dumps({"model": "auto", "messages": QUESTION})
    envelope(live.post(body, kind="text/plain"), 415)


@check
def an_unknown_path_has_an_envelope(live):
    envelope(live.http.get(f"{live.base}/no/such/path"), 404)


@check
def a_wrong_method_has_an_envelope(live):
    envelope(live.http.get(f"{live.base}/chat/completions"), 405)


@check
def an_unsupported_field_is_named(live):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    error = refused(openai.BadRequestError, lambda: live.ask(tools=tools))
    expect(error.param == "tools", f"param is {error.param!r}")


@check
def a_prompt_beyond_the_context_is_refused(live):
    # More tokens than the largest context of the three (32768), in fewer bytes than the body limit.
    long = [{"role": "user", "content": "one two three " * 25_000}]
    call = lambda: live.ask(model=SMOL, messages=long)
    refused(openai.BadRequestError, call, "context_length_exceeded")


@check
def an_aborted_stream_leaves_a_healthy_system(live):
    story = [{"role": "user", "content": "Tell me a long story about the sea."}]
    # Far more than the other checks ask for, so that work is left to stop when the client goes.
    stream = live.ask(messages=story, max_tokens=512, stream=True)
    next(iter(stream))
    stream.close()
    nothing_in_flight(live)
    answered(live.ask())


def nothing_in_flight(live):
    """With the operator's key: all experts are idle within SETTLED seconds."""
    key = os.environ.get("MOE2_ADMIN_KEY")
    if not key:
        return
    url = f"{live.base.removesuffix('/v1')}/admin/v1/fleet"
    end = time.monotonic() + SETTLED
    while True:
        response = httpx.get(url, headers={"authorization": f"Bearer {key}"}, timeout=PATIENCE)
        expect(response.status_code == 200, f"fleet: {response.status_code} {response.text[:200]}")
        experts = [expert for node in response.json()["nodes"] for expert in node["experts"]]
        expect(experts, "the fleet view shows no expert")
        if all(expert["in_flight"] == 0 for expert in experts):
            return
        expect(time.monotonic() < end, f"still in flight after {SETTLED} s: {experts}")
        time.sleep(0.1)


@check
def parallel_requests_are_all_answered(live):
    def one(_):
        create = live.sdk.chat.completions.with_raw_response.create
        raw = create(model="auto", messages=QUESTION, max_tokens=8, temperature=0)
        answered(raw.parse())
        return raw.headers["x-request-id"]

    with ThreadPoolExecutor(PARALLEL) as pool:
        ids = list(pool.map(one, range(PARALLEL)))
    expect(len(set(ids)) == PARALLEL, f"request ids repeat: {sorted(ids)}")


@check
def temperature_zero_is_deterministic(live):
    for name in EXPERTS:
        first, second = (answered(live.ask(model=name, max_tokens=24)) for _ in range(2))
        expect(first == second, f"{name}: {first!r} then {second!r}")


def main(arguments):
    if len(arguments) != 2:
        print("usage: conformance.py BASE_URL API_KEY", file=sys.stderr)
        return 2
    live = Live(*arguments)
    failed = 0
    for function in CHECKS:
        try:
            function(live)
            print(f"ok {function.__name__}", flush=True)
        # Whatever goes wrong in one check, the others still run and the count still comes.
        except Exception as error:
            failed += 1
            print(f"FAILED {function.__name__}: {type(error).__name__}: {error}", flush=True)
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
