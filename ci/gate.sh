# What .ci/run calls: every check, whatever fails before it, and one line at the end that counts them all.
set -u

passed=0
failed=0

# Runs one check under its name; its output is shown, and kept for counting.
log=$(mktemp)
check() {
  local name=$1
  shift
  echo "== $name: $*"
  local start=$SECONDS
  # To a file and not through a pipe: a restored process must not keep the gate waiting for the end of its output.
  if "$@" >"$log" 2>&1 </dev/null; then
    passed=$((passed + 1))
    grep -E '^test result|^[0-9]+ passed|^running|kills:' "$log" | tail -n 60
    echo "== $name: ok ($((SECONDS - start)) s)"
  else
    failed=$((failed + 1))
    tail -n 150 "$log"
    echo "== $name: FAILED ($((SECONDS - start)) s)"
  fi
}

# Tests and zoo entries count one by one.
count() {
  local p f
  p=$(grep -oE '[0-9]+ passed' "$log" | awk '{n += $1} END {print n + 0}')
  f=$(grep -oE '[0-9]+ failed' "$log" | awk '{n += $1} END {print n + 0}')
  passed=$((passed + p))
  failed=$((failed + f))
}

# Descriptors that whoever called us left open would be the tests' too.
for fd in /proc/$$/fd/*; do
  fd=${fd##*/}
  [ "$fd" -gt 2 ] && [ "$fd" != 255 ] && eval "exec $fd>&-"
done

bash ci/install.sh

check format cargo fmt --all --check
check lints cargo clippy --workspace --all-targets -- -D warnings
check tests cargo test --workspace
count
# All of it is built by now; `cargo zdtm` would build dependencies once more, for fewer packages.
check build cargo build --workspace
check zoo target/debug/zdtm run --all --flavor host,ns,userns --report-junit target/zdtm-junit.xml
count

rm -f "$log"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
