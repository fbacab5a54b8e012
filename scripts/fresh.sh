#!/usr/bin/env bash
# Runs the README's commands on a machine that has only what the README asks for: a minimal Debian
# or Ubuntu in a folder, in namespaces of its own, as an ordinary user, with /tmp in memory.
#
#   scripts/fresh.sh [COMMAND...]     default: the README's two, "make demo" and "make test"
#
# What is committed is tried, in a new clone. Needs root and debootstrap. The folder is kept for the
# next time in $FRESH_ROOT, by default /var/tmp/epoch-fresh; each machine is a new copy of it.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- "make demo" "make test"
root=$(realpath -m "${FRESH_ROOT:-/var/tmp/epoch-fresh}")

fail() { echo "make fresh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "needs root, for chroot and namespaces: try sudo make fresh"
for program in debootstrap unshare git apt-get; do
  command -v "$program" >/dev/null || fail "needs $program (Debian, Ubuntu: apt install debootstrap util-linux git)"
done
[ -z "$(git status --porcelain)" ] || echo "make fresh: what is not committed is not tried" >&2

# What the README tells people to install, and nothing else.
packages=$(sed -n 's/^ *apt install \(python3.*\)$/\1/p' README.md)
[ -n "$packages" ] || fail "README.md has no line that begins with: apt install python3"
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
  awk -v release="$release" '$2 == release && $3 == "main" {print $1; exit}')
[ -n "$mirror" ] || fail "apt's sources name no mirror of $release"

made_of="$release $mirror $packages"
if [ "$(cat "$root/made-of" 2>/dev/null)" != "$made_of" ]; then
  echo "== $release from $mirror with $packages"
  rm -rf --one-file-system "$root"
  mkdir -p "$root"
  debootstrap --variant=minbase --include="${packages// /,}" "$release" "$root/base" "$mirror" \
    >"$root/log" 2>&1 || { tail -5 "$root/log" >&2; fail "debootstrap failed, see $root/log"; }
  chroot "$root/base" useradd --create-home --shell /bin/bash user
  echo "$made_of" >"$root/made-of"
fi

machine=$root/machine
rm -rf --one-file-system "$machine"
cp -a "$root/base" "$machine"
git clone --quiet --no-hardlinks . "$machine/home/user/epoch"
chroot "$machine" chown -R user:user /home/user
# How this machine reaches its package registries is its own business: handed on as it is.
cp -L /etc/resolv.conf /etc/hosts "$machine/etc/"
rm -rf "$machine/etc/ssl/certs" && mkdir -p "$machine/etc/ssl"
[ ! -d /etc/ssl/certs ] || cp -rL /etc/ssl/certs "$machine/etc/ssl/"
[ ! -e /etc/pip.conf ] || cp -L /etc/pip.conf "$machine/etc/"
mapfile -t settings < <(env | grep -E '^(PIP_[A-Z_]+|(https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE)=' || true)
read -ra wheels <<<"${PIP_FIND_LINKS:-}"

# Run within the namespaces; $1 is the machine, $2 the command.
inside='
set -euo pipefail
machine=$1 command=$2
mount --make-rprivate /
mount --bind "$machine" "$machine"
mount -t proc proc "$machine/proc"
mount -t tmpfs -o mode=1777 tmp "$machine/tmp"
mount -t tmpfs -o mode=755 dev "$machine/dev"
mkdir -m 1777 "$machine/dev/shm"
mount -t tmpfs -o mode=1777 shm "$machine/dev/shm"
for node in null zero full random urandom tty; do
  touch "$machine/dev/$node"
  mount --bind "/dev/$node" "$machine/dev/$node"
done
for name in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
  ln -s "/proc/self/${name#*:}" "$machine/dev/${name%%:*}"
done
for folder in $WHEELS; do
  [ ! -d "$folder" ] || { mkdir -p "$machine$folder" && mount --bind -o ro "$folder" "$machine$folder"; }
done
ulimit -Sn 1024
exec chroot --userspec=user:user --groups= "$machine" env -i "${@:3}" \
  HOME=/home/user USER=user SHELL=/bin/bash PATH=/usr/local/bin:/usr/bin:/bin TMPDIR=/tmp \
  bash -c "cd ~/epoch && $command"
'
status=0
for command; do
  echo "== $command"
  began=$SECONDS code=0
  WHEELS="${wheels[*]}" unshare --mount --pid --ipc --uts --fork --kill-child \
    bash -c "$inside" fresh "$machine" "$command" "${settings[@]}" </dev/null || code=$?
  echo "== $command: exit code $code after $((SECONDS - began)) s"
  [ $code = 0 ] || status=1
done
exit $status
