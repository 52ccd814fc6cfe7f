# What the scripts share: finding and installing what a bare Debian machine lacks.
# Sourced, not run.

# as_root COMMAND...: as root, with sudo where this is a user.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else
        echo "this needs root, and there is no sudo: $*" >&2
        return 1
    fi
}

# need COMMAND=PACKAGE...: installs the packages of the commands that are missing.
need() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
}

# install_packages PACKAGE...: with apt-get, where there is one.
install_packages() {
    if ! command -v apt-get >/dev/null; then
        echo "missing: $* (Debian's names); install them and try again" >&2
        return 1
    fi
    echo "installing: $*" >&2
    as_root apt-get update -qq >&2
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >&2
}

# need_rust: cargo, of the rustup that is there.
need_rust() {
    if ! command -v cargo >/dev/null; then
        [ -r "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
    fi
    if ! command -v cargo >/dev/null; then
        echo "cargo is missing: install Rust first, with rustup" >&2
        return 1
    fi
}

# need_fuse: a /dev/fuse that everybody may open, as udev makes it.
need_fuse() {
    [ -c /dev/fuse ] || as_root modprobe fuse 2>/dev/null || true
    if [ ! -c /dev/fuse ]; then
        echo "there is no /dev/fuse: this machine's kernel has no FUSE, and nothing can be mounted" >&2
        return 1
    fi
    if [ "$(stat -c %a /dev/fuse)" != 666 ]; then
        echo "/dev/fuse gets its usual mode, 0666" >&2
        as_root chmod 0666 /dev/fuse
    fi
}
