"""The official client against limits: right classes, honoured waits, no retry of what waiting cannot mend.

Arguments: base address, key of a tenant whose window is used up, key of one that may ask once a minute.
"""

import sys
import time

import openai

base, exhausted, once = sys.argv[1:]


def client(key, retries):
    return openai.OpenAI(base_url=base, api_key=key, max_retries=retries)


def ask(client):
    return client.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": "Hello!"}], max_tokens=8
    )


# A window that is used up: asked once, in spite of two retries (the caller counts).
try:
    ask(client(exhausted, 2))
    raise SystemExit("an exhausted window was not refused")
except openai.RateLimitError as error:
    assert error.code == "insufficient_quota", error.code
    assert error.response.headers["x-should-retry"] == "false"
    assert "J are left" in error.message, error.message
    assert float(error.response.headers["x-ratelimit-remaining-joules"]) < 1.0

# A rate: the first is answered and says that nothing is left, the second is told how long to wait.
answer = ask(client(once, 0))
assert answer.headers["x-ratelimit-limit-requests"] == "1", answer.headers
assert answer.headers["x-ratelimit-remaining-requests"] == "0", answer.headers
began = time.monotonic()
try:
    ask(client(once, 0))
    raise SystemExit("a second request within a minute was not refused")
except openai.RateLimitError as error:
    assert error.code == "rate_limit_exceeded", error.code
    wait = int(error.response.headers["retry-after"])
    assert 1 <= wait <= 62, wait
    assert abs(int(error.response.headers["retry-after-ms"]) - 1000 * wait) <= 1000
assert time.monotonic() - began < 5
