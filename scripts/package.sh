#!/usr/bin/env bash
# Builds the source distribution and, from that alone, the wheel, as `pip` and a package index would;
# installs the wheel where no compiler can be found, and runs scripts/smoke.py with it.
#
#   scripts/package.sh      leaves both in dist/
#
# Fetches the build's requirements and Epoch's dependencies. $PYTHON is the Python to do it with.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
work=$(mktemp -d "${TMPDIR:-/tmp}/epoch-package-XXXXXX")
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

echo "== sdist and wheel"
# A copy of what git knows or would add: what was built here must not help.
mkdir "$work/tree"
git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- | tar -x -C "$work/tree"
"$python" -m venv "$work/build"
"$work/build/bin/pip" install --quiet build twine
"$work/build/bin/python" -m build --outdir "$work/dist" "$work/tree" >"$work/log" 2>&1 ||
  { tail -40 "$work/log" >&2; exit 1; }
"$work/build/bin/twine" check --strict "$work"/dist/*

echo "== what they hold"
tar -tzf "$work"/dist/*.tar.gz | sed 's|^[^/]*/||' >"$work/sdist"
"$python" -m zipfile -l "$work"/dist/*.whl | awk 'NR > 1 {print $1}' >"$work/wheel"
holds() { grep -qE "^$2\$" "$work/$1" || { echo "the $1 lacks $2" >&2; exit 1; }; }
lacks() { ! grep -E "^$2\$" "$work/$1" || { echo "the $1 must not hold that" >&2; exit 1; }; }
for file in LICENSE README.md setup.py pyproject.toml src/epoch/_fastio.pyx; do holds sdist "$file"; done
for file in $(git ls-files src); do holds sdist "$file"; done
for file in $(git ls-files 'src/*.py' 'src/*.pyi' 'src/*py.typed'); do holds wheel "${file#src/}"; done
holds wheel 'epoch/_fastio\..*\.so'
holds wheel '.*\.dist-info/licenses/LICENSE'
lacks sdist '.*\.so|src/epoch/_fastio\.c'
lacks wheel '.*\.(c|h|pyx)'
# Links of the description to files that a package index does not have.
tar -xzOf "$work"/dist/*.tar.gz --wildcards '*/PKG-INFO' >"$work/description"
! grep -nP '\]\((?!https?://)' "$work/description" || { echo "links that lead nowhere" >&2; exit 1; }

echo "== install without a compiler"
"$python" -m venv "$work/venv"
# No program outside this folder is found, and pip may take nothing that has to be compiled.
(
  smoke=$PWD/scripts/smoke.py
  cd "$work" # away from src/
  export PATH=$work/venv/bin CC=/no/compiler
  pip install --quiet --only-binary :all: dist/*.whl
  pip check
  python "$smoke"
)

mkdir -p dist
rm -f dist/epoch_registry-*
cp "$work"/dist/* dist/
ls -l dist
