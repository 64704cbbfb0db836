#!/usr/bin/env bash
# Run the fast tests in one environment per row: lowest and highest versions, every Python, no extras, spawn.
#
#   tools/matrix.sh                        # all rows
#   tools/matrix.sh 3.10-lowest 3.13-core  # selected rows
#
# A row is PYTHON-VERSIONS. The versions are: lowest (the smallest that pyproject.toml allows), highest, pinned
# (constraints.txt), core (highest, without extras), spawn (highest, worker processes are spawned). The environments stay
# in build/matrix (MATRIX_DIR). PYTEST_ARGS (default: -m "not e2e") selects the tests, TEST_WORKERS (default: 2) is the
# number of processes. uv (https://docs.astral.sh/uv) resolves and installs; without it, pip installs it in build/matrix.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

rows=("$@")
[ ${#rows[@]} -gt 0 ] || rows=(3.10-lowest 3.10-pinned 3.11-pinned 3.12-highest 3.13-highest 3.13-core 3.13-spawn)
base="${MATRIX_DIR:-build/matrix}"
mkdir -p "$base"
uv="$(command -v uv || true)"
if [ -z "$uv" ]; then
    uv="$base/uv/bin/uv"
    [ -x "$uv" ] || { python3 -m venv "$base/uv" && "$base/uv/bin/pip" install --quiet uv; } || exit 1
fi

# install VENV VERSIONS: resolve pyproject.toml, and install the package from this folder
install() {
    local options=(--extra dev)
    case "$2" in
        lowest) options+=(--resolution lowest-direct) ;;
        pinned) options+=(--constraint constraints.txt) ;;
        core) options=(--extra test) ;;
        highest | spawn) ;;
        *) echo "expected lowest, highest, pinned, core or spawn, found '$2'" && return 2 ;;
    esac
    "$uv" pip compile --quiet --python "$1/bin/python" "${options[@]}" --output-file "$1/versions.txt" pyproject.toml >/dev/null &&
        "$uv" pip sync --quiet --python "$1/bin/python" "$1/versions.txt" &&
        "$uv" pip install --quiet --python "$1/bin/python" --no-deps --editable .
}

run_row() {
    local python="${1%%-*}" versions="${1#*-}" venv="$base/$1" plugin=()
    "$uv" venv --quiet --allow-existing --python "$python" "$venv" && install "$venv" "$versions" || return 3
    [ "$versions" != spawn ] || plugin=(-p spawn_workers)
    PYTHONPATH="$PWD:$PWD/tests/fixtures" "$venv/bin/python" -m pytest -q -p no:cacheprovider "${plugin[@]}" \
        -n "${TEST_WORKERS:-2}" --dist loadfile ${PYTEST_ARGS:--m "not e2e"}
}

failed=0
for row in "${rows[@]}"; do
    if run_row "$row" >"$base/$row.log" 2>&1; then result=ok; else result=FAILED; failed=1; fi
    printf '%-14s %-7s %s\n' "$row" "$result" "$(tail -n 1 "$base/$row.log")"
done
exit "$failed"
