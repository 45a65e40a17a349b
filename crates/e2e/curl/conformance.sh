#!/bin/sh
# Conformance of a live system with nothing but curl; python3 only reads the JSON.
#
#     MOE2_API_KEY=... conformance.sh BASE_URL      BASE_URL ends in /v1
#
# The same core set as the Python client's, so that what the SDK forgives is still seen. Prints
# `ok NAME` for each check; exits 1 if any failed.
set -u

if [ $# -ne 1 ] || [ -z "${MOE2_API_KEY:-}" ]; then
    echo "usage: MOE2_API_KEY=... $0 BASE_URL" >&2
    exit 2
fi
base=${1%/}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
# The key goes through a file only we can read, never through the process list.
(umask 077 && printf 'header = "Authorization: Bearer %s"\n' "$MOE2_API_KEY" >"$work/auth")
passed=0
failed=0

# Runs a check: its name with spaces, then a function; its output is shown when it fails.
check() {
    # Not inside `if`: there the shell would ignore `set -e` and every step but the last.
    (set -e; "$2") >"$work/said" 2>&1
    if [ $? -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok $1"
    else
        failed=$((failed + 1))
        echo "FAILED $1: $(head -c 600 "$work/said" | tr '\n' ' ')"
    fi
}

# call STATUS PATH [curl options]: the body lands in $work/body, the headers in $work/head.
call() {
    want=$1
    path=$2
    shift 2
    got=$(curl -sS --max-time 300 -K "$work/auth" -D "$work/head" -o "$work/body" \
        -w '%{http_code}' "$@" "$base$path") || { echo "curl failed on $path"; return 1; }
    if [ "$got" != "$want" ]; then
        echo "status $got, not $want: $(head -c 300 "$work/body")"
        return 1
    fi
}

# chat STATUS JSON [curl options]
chat() {
    want=$1
    printf '%s' "$2" >"$work/request"
    shift 2
    call "$want" /chat/completions -H 'Content-Type: application/json' \
        --data-binary "@$work/request" "$@"
}

# json EXPRESSION: true of the reply `r` in Python.
json() {
    python3 -c '
import json, sys
r = json.load(open(sys.argv[1], encoding="utf-8"))
sys.exit(0 if eval(sys.argv[2]) else f"not so: {sys.argv[2]}: {str(r)[:300]}")
' "$work/body" "$1"
}

# The four fields of an error, a JSON content type and a request id.
envelope() {
    json 'set(r["error"]) >= {"message", "type", "param", "code"} and r["error"]["message"]'
    grep -qi '^content-type: application/json' "$work/head" || { echo "not JSON"; return 1; }
    grep -qi '^x-request-id: ' "$work/head" || { echo "no x-request-id"; return 1; }
}

smol=smollm2-135m-instruct
ask='"messages":[{"role":"user","content":"What is the capital of France?"}],"max_tokens":8,"temperature":0'

models() {
    call 200 /models
    json '{"auto", "smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-0.5b-instruct"} <= {m["id"] for m in r["data"]}'
    call 200 "/models/$smol"
    json 'r["object"] == "model" and r["id"] == "smollm2-135m-instruct"'
}

plain() {
    for model in auto "$smol" gemma-3-270m qwen2.5-coder-0.5b-instruct; do
        chat 200 "{\"model\":\"$model\",$ask}"
        json 'r["object"] == "chat.completion" and r["choices"][0]["message"]["content"]'
        json 'r["usage"]["total_tokens"] == r["usage"]["prompt_tokens"] + r["usage"]["completion_tokens"] > 0'
    done
}

streamed() {
    chat 200 "{\"model\":\"auto\",\"stream\":true,\"stream_options\":{\"include_usage\":true},$ask}" -N
    grep -qi '^content-type: text/event-stream' "$work/head" || { echo "no event stream"; return 1; }
    python3 - "$work/body" <<'PYTHON'
import json, sys
text = open(sys.argv[1], encoding="utf-8").read()
assert text.endswith("\n\n"), "the stream ends inside an event"
events = [event for event in text.split("\n\n") if event and not event.startswith(":")]
assert all(event.startswith("data: ") and "\n" not in event for event in events), events[:3]
assert events[-1] == "data: [DONE]", f"the last event is {events[-1]!r}"
chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
for field in ("id", "created", "model"):
    assert len({chunk[field] for chunk in chunks}) == 1, f"{field} changes within a stream"
*parts, usage = chunks
assert usage["choices"] == [] and usage["usage"]["completion_tokens"] > 0, usage
assert all("usage" in part and part["usage"] is None for part in parts), "usage is not null"
assert parts[0]["choices"][0]["delta"]["role"] == "assistant", parts[0]
assert parts[-1]["choices"][0]["finish_reason"] in ("stop", "length"), parts[-1]
PYTHON
}

choice() {
    chat 200 "{\"model\":\"auto\",\"structured_outputs\":{\"choice\":[\"Paris\",\"Berlin\"]},$ask}"
    json 'r["choices"][0]["message"]["content"] in ("Paris", "Berlin")'
}

infeasible() {
    chat 422 "{\"model\":\"auto\",\"moe2\":{\"delay_budget_ms\":0.001},$ask}"
    envelope
    json 'r["error"]["code"] == "budget_infeasible"'
}

bad_key() {
    got=$(curl -sS --max-time 60 -D "$work/head" -o "$work/body" -w '%{http_code}' \
        -H 'Authorization: Bearer sk-not-a-key' "$base/models")
    [ "$got" = 401 ] || { echo "status $got, not 401"; return 1; }
    envelope
    json 'r["error"]["code"] == "invalid_api_key"'
}

unknown_model() {
    chat 404 "{\"model\":\"no-such-model\",$ask}"
    envelope
    json 'r["error"]["code"] == "model_not_found"'
}

too_large() {
    head -c 2000000 /dev/zero | tr '\0' x >"$work/large"
    # Without `Expect`, so that the refusal meets a body that is already on its way.
    call 413 /chat/completions -H 'Content-Type: application/json' -H 'Expect:' \
        --data-binary "@$work/large"
    envelope
}

malformed() {
    chat 400 '{"model": "auto", "messages": ['
    envelope
}

invalid_utf8() {
    printf '{"model":"auto","messages":[{"role":"user","content":"\377\376"}]}' >"$work/bytes"
    call 400 /chat/completions -H 'Content-Type: application/json' --data-binary "@$work/bytes"
    envelope
}

empty_messages() {
    chat 400 '{"model":"auto","messages":[]}'
    envelope
    json 'r["error"]["param"] == "messages"'
}

content_type() {
    call 415 /chat/completions -H 'Content-Type: text/plain' --data-binary "{\"model\":\"auto\",$ask}"
    envelope
}

unknown_path() {
    call 404 /no/such/path
    envelope
}

wrong_method() {
    call 405 /chat/completions
    envelope
}

unsupported() {
    chat 400 "{\"model\":\"auto\",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],$ask}"
    envelope
    json 'r["error"]["param"] == "tools"'
}

too_long() {
    long=$(python3 -c 'print("one two three " * 25000)')
    chat 400 "{\"model\":\"$smol\",\"messages\":[{\"role\":\"user\",\"content\":\"$long\"}]}"
    envelope
    json 'r["error"]["code"] == "context_length_exceeded"'
}

aborted() {
    printf '{"model":"%s","stream":true,"max_tokens":512,"messages":[{"role":"user","content":"Tell me a long story."}]}' "$smol" >"$work/story"
    # 28 is curl's own word for "time ran out", 0 means that the story was short.
    code=0
    curl -sS -N --max-time 0.5 -K "$work/auth" -H 'Content-Type: application/json' -o /dev/null \
        --data-binary "@$work/story" "$base/chat/completions" || code=$?
    [ "$code" = 28 ] || [ "$code" = 0 ] || { echo "curl ended with $code"; return 1; }
    chat 200 "{\"model\":\"$smol\",$ask}"
    json 'r["choices"][0]["message"]["content"]'
}

parallel() {
    printf '{"model":"auto",%s}' "$ask" >"$work/one"
    pids=
    n=0
    while [ "$n" -lt 20 ]; do
        n=$((n + 1))
        curl -sS --fail-with-body --max-time 300 -K "$work/auth" -D "$work/head.$n" -o "$work/body.$n" \
            -H 'Content-Type: application/json' --data-binary "@$work/one" "$base/chat/completions" &
        pids="$pids $!"
    done
    bad=0
    for pid in $pids; do
        wait "$pid" || bad=$((bad + 1))
    done
    [ "$bad" = 0 ] || { echo "$bad of 20 failed: $(cat "$work"/body.* | head -c 300)"; return 1; }
    ids=$(cat "$work"/head.* | grep -i '^x-request-id: ' | sort -u | wc -l)
    [ "$ids" -eq 20 ] || { echo "$ids distinct request ids, not 20"; return 1; }
}

deterministic() {
    content='json.dumps(r["choices"][0]["message"]["content"])'
    for run in 1 2; do
        chat 200 "{\"model\":\"$smol\",$ask}"
        python3 -c "import json,sys; r=json.load(open(sys.argv[1])); print($content)" \
            "$work/body" >"$work/answer.$run"
    done
    cmp "$work/answer.1" "$work/answer.2"
}

check 'models are listed and retrieved' models
check 'plain chat, routed and pinned' plain
check 'streamed chat with usage is framed to the end' streamed
check 'a structured choice is one of the options' choice
check 'a budget that cannot be met is 422' infeasible
check 'a bad key is 401' bad_key
check 'an unknown model is 404' unknown_model
check 'a body of two megabytes is 413' too_large
check 'malformed JSON is 400' malformed
check 'invalid UTF-8 is 400' invalid_utf8
check 'empty messages are 400' empty_messages
check 'another content type is 415' content_type
check 'an unknown path is 404 with an envelope' unknown_path
check 'a wrong method is 405 with an envelope' wrong_method
check 'an unsupported field is named' unsupported
check 'a prompt beyond the context is 400' too_long
check 'an aborted request leaves a healthy system' aborted
check '20 parallel requests are all answered' parallel
check 'temperature 0 is deterministic' deterministic

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
