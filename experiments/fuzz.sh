#!/usr/bin/env bash
# Runs the fuzz targets under libFuzzer, each for RUNS executions, and keeps what came of it in
# experiments/record/UNIX-fuzz/record.json.
#
#   experiments/fuzz.sh [RUNS [TARGET…]]      10,000,000 and all of them by default
#
# The targets are tests with `bolero`; the flags below are those of `cargo bolero`, which cannot be told to
# build one of a package's tests only, and the others do not link without the fuzzer. A crash, a hang of 10 s
# or a broken assertion ends that target's run, is counted, and its input is kept beside the record. The
# corpus that a run collects is in BUILD/corpus, where BUILD is CARGO_TARGET_DIR/fuzz or target/fuzz; the
# committed one is not touched. Not an experiment of `moe2-experiments`: all there is to do is to start
# other programs and to read their last lines.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Target, package, which of its test programs, test, folder with its corpus, longest input in bytes; the quickest
# first, so that a run that is stopped has as many as can be.
TARGETS="
control          moe2-wire         --test=fuzz              targets::control       crates/wire/tests/fuzz/__fuzz__/control        1024
work             moe2-wire         --test=fuzz              targets::work          crates/wire/tests/fuzz/__fuzz__/work           1024
worker           moe2-wire         --test=fuzz              targets::worker        crates/wire/tests/fuzz/__fuzz__/worker         1024
enrol            moe2-wire         --test=fuzz              targets::enrol         crates/wire/tests/fuzz/__fuzz__/enrol          1024
stream           moe2-wire         --test=fuzz              targets::stream        crates/wire/tests/fuzz/__fuzz__/stream         1024
sse              moe2-agent        --bin=moe2-agent         upstream::sse::tests::fuzz_sse          agents/src/upstream/__fuzz__/sse         1024
gguf             moe2-models       --test=fuzz              targets::gguf          crates/models/tests/__fuzz__/gguf              2048
join_token       moe2-net          --lib                    token::tests::fuzz_join_token           crates/net/src/__fuzz__/join_token       256
gate_file        moe2-gate         --test=fuzz              targets::gate_file     crates/gate/tests/__fuzz__/gate_file           2048
outcomes         moe2-gate         --test=fuzz              targets::outcomes      crates/gate/tests/__fuzz__/outcomes            1024
certificate      moe2-net          --lib                    certificate::tests::fuzz_certificate    crates/net/src/__fuzz__/certificate      1024
identity         moe2-net          --lib                    identity::tests::fuzz_identity          crates/net/src/__fuzz__/identity         2048
request          moe2-coordinator  --bin=moe2-coordinator   http::request::tests::fuzz_request      scheduler/src/http/request/__fuzz__/request 1024
agent            moe2-agent        --bin=moe2-agent         config::tests::fuzz_config              agents/src/__fuzz__/config               1024
coordinator      moe2-coordinator  --bin=moe2-coordinator   config::read::tests::fuzz_config        scheduler/src/config/__fuzz__/config     1024
manifest         moe2-models       --test=fuzz              targets::manifest      crates/models/tests/__fuzz__/manifest          1024
gate_content     moe2-gate         --test=fuzz              targets::gate_content  crates/gate/tests/__fuzz__/gate_content        8192
instance         moe2-solve        --test=fuzz              targets::instance      crates/solve/tests/__fuzz__/instance           1024
routing          moe2-solve        --test=fuzz              targets::routing       crates/solve/tests/__fuzz__/routing            1024
proof            moe2-solve        --test=fuzz              targets::proof         crates/solve/tests/__fuzz__/proof              1024
signing_request  moe2-net          --lib                    authority::tests::fuzz_signing_request  crates/net/src/__fuzz__/signing_request  1024
"
FLAGS="--cfg fuzzing -Cpasses=sancov-module --cfg fuzzing_libfuzzer \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
-Cllvm-args=-sanitizer-coverage-stack-depth"

runs=${1:-10000000}
shift || true
wanted=" $* "
build=${CARGO_TARGET_DIR:-target}/fuzz
record=experiments/record/$(date +%s)-fuzz
# With a target named, build scripts and macros are not instrumented.
triple=$(rustc -vV | sed -n 's/^host: //p')
mkdir -p "$build" "$record"
lines=$build/lines
: >"$lines"

last() { # NAME FILE: the number that follows a name where it stands last in a log
    sed -n "s/.*$1[: ]*\([0-9][0-9]*\).*/\1/p" "$2" | tail -1
}

calc() { # EXPRESSION FORMAT
    awk "BEGIN{printf \"$2\", $1}"
}

# Everything so far, so that a run that is stopped leaves a record, too.
write() {
    local cpu
    cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
    cat >"$record/record.json" <<JSON
{
  "experiment": "fuzz",
  "what": "readers of what comes from outside, under libFuzzer, with assertions and overflow checks",
  "unix_seconds": $(date +%s),
  "command": "experiments/fuzz.sh $runs${wanted%% }",
  "machine": {"cpu": "$cpu", "threads": $(nproc)},
  "commit": "$(git rev-parse HEAD)",
  "toolchain": "$(rustc --version); libFuzzer with edge counters and compared values; no sanitizer",
  "result": [
$(sed 's/^/    /; $!s/$/,/' "$lines")
  ]
}
JSON
}

program() { # PACKAGE WHICH: builds a test program and says where it is
    RUSTFLAGS=$FLAGS cargo test --profile fuzz --target "$triple" --target-dir "$build/build" \
        -p "$1" "$2" --no-run 2>&1 | tee "$build/cargo.log" | sed -n 's/.*Executable.*(\(.*\))$/\1/p'
}

one() { # TARGET PACKAGE WHICH TEST FOLDER LONGEST
    local log=$build/$1.log corpus=$build/corpus/$1 crashes=$build/crashes/$1
    rm -rf "$corpus" "$crashes"
    mkdir -p "$corpus" "$crashes"
    # Inputs that once crashed are in the folder, too: they are seeds as good as any.
    find "$5" -type f -exec cp -t "$corpus" {} +
    local seeds program
    seeds=$(find "$corpus" -type f | wc -l)
    program=$(program "$2" "$3")
    [ -n "$program" ] || { cat "$build/cargo.log" >&2; exit 1; }
    local began ended finished=true
    began=$(date +%s%N)
    BOLERO_TEST_NAME=$4 BOLERO_LIBTEST_HARNESS=1 BOLERO_LIBFUZZER_ARGS="$corpus -artifact_prefix=$crashes/ \
-timeout=10 -runs=$runs -max_len=$6 -print_final_stats=1" \
        "$program" "$4" --exact --nocapture --quiet --test-threads 1 >"$log" 2>&1 || finished=false
    ended=$(date +%s%N)
    local executions seconds found
    executions=$(last "stat::number_of_executed_units" "$log")
    # A crash ends the run without statistics: then the last that was printed.
    executions=${executions:-$(sed -n 's/^#\([0-9]*\).*/\1/p' "$log" | tail -1)}
    seconds=$(calc "($ended - $began) / 1e9" "%.1f")
    found=$(find "$crashes" -type f | wc -l)
    [ "$found" = 0 ] || cp -r "$crashes" "$record/crashes-$1"
    printf '{"target": "%s", "package": "%s", "executions": %s, "finished": %s, "seconds": %s, "executions_per_s": %s, "longest_input": %s, "seeds": %s, "corpus": %s, "covered_edges": %s, "peak_rss_mb": %s, "crashes": %s}\n' \
        "$1" "$2" "${executions:-0}" "$finished" "$seconds" "$(calc "${executions:-0} / $seconds" "%.0f")" "$6" \
        "$seeds" "$(find "$corpus" -type f | wc -l)" "$(last " cov" "$log" | grep . || echo null)" \
        "$(last "stat::peak_rss_mb" "$log" | grep . || echo null)" "$found" >>"$lines"
    tail -1 "$lines"
}

while read -r target package which test folder longest; do
    [ -n "$target" ] || continue
    [ -z "${wanted// /}" ] || [[ $wanted == *" $target "* ]] || continue
    one "$target" "$package" "$which" "$test" "$folder" "$longest" </dev/null
    write
done <<<"$TARGETS"
echo "$record/record.json"
