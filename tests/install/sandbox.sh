# A machine of its own for one script: this one's files under an overlay that is thrown away, with
# processes and mounts of its own. What the script does to /etc, installs, mounts or leaves running
# is gone with it.
# Usage: unshare --mount --pid --fork --kill-child --propagation private bash sandbox.sh DIR
# DIR has the script, script.sh, and what it needs; it finds that in /tmp/bring.
set -eu
bring=$1 dir=$1/machine
mkdir "$dir"
mount -t tmpfs sandbox "$dir"
mkdir "$dir/upper" "$dir/work" "$dir/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
root=$dir/root
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs run "$root/run"
mount -t tmpfs tmp "$root/tmp"
mkdir "$root/tmp/bring"
mount --bind "$bring" "$root/tmp/bring"
exec chroot "$root" setsid --wait bash -euo pipefail /tmp/bring/script.sh
