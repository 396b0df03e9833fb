# shellcheck shell=bash
# Debian 12's stock kernel, booted under qemu's software emulation; sourced by the scripts that
# need one. The machine writes its results on its console in lines that begin with `VM`, and the
# last is `VM: N passed, M failed`.

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

need() { # need TOOL…
    local tool
    for tool; do
        command -v "$tool" >/dev/null || die "$tool is missing: install Debian's package (scripts/packages; mmdebstrap's own)"
    done
}

# open_cache BINS: what can be kept from one run to the next, one run at a time, in `cache`.
open_cache() {
    cache=${1%/}
    cache=${cache%/*}/vm
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
}

# The kernel's package, once: it is unpacked, never installed.
fetch_kernel() {
    [[ ! -s $cache/vmlinuz ]] || return 0
    local package
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -n 1)
    [[ $package == linux-image-6.1.* ]] ||
        die "no Debian 12 kernel in the package lists (found '$package'): run apt-get update"
    rm -rf "$cache/package"
    mkdir "$cache/package"
    # _apt may not write here, which apt-get only remarks on.
    (cd "$cache/package" && apt-get download -qq "$package" 2>"$cache/fetch.log") ||
        die "cannot fetch $package: $(cat "$cache/fetch.log")"
    dpkg-deb --fsys-tarfile "$cache/package/"*.deb | tar -x -C "$cache/package" --wildcards './boot/vmlinuz-*'
    mv "$cache/package/boot/"vmlinuz-* "$cache/vmlinuz"
    rm -rf "$cache/package"
}

# boot ROOT LOG SECONDS MEGABYTES [PARAMETERS]: runs the machine whose files are in ROOT, of which
# /init is the first process, prints its results, and succeeds if nothing failed.
boot() {
    local root=$1 log=$2 limit=$3 memory=$4 status=0 last
    (cd "$root" && find . -print0 | sort -z |
        cpio --null --create --format=newc --owner=+0:+0 --quiet) >"$log.initrd"
    # If this script is killed, the machine is to end as well.
    setpriv --pdeathsig TERM timeout --foreground "$limit" qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max \
        -m "$memory" -smp 2 -nodefaults -no-user-config -no-reboot -display none -serial stdio \
        -kernel "$cache/vmlinuz" -initrd "$log.initrd" \
        -append "console=ttyS0 quiet panic=-1 rdinit=/init ${5:-}" \
        </dev/null 2>&1 | tr -d '\r' >"$log" || status=$?
    grep '^VM' "$log" || true
    last=$(grep '^VM: [0-9]* passed, [0-9]* failed$' "$log" || true)
    if [[ -z $last ]]; then
        tail -n 30 "$log" >&2
        if ((status == 124)); then die "the machine was not done after $limit s; $log has it all"; fi
        die "the machine ended (status $status) without a result; $log has it all"
    fi
    [[ $last =~ ^VM:\ [1-9][0-9]*\ passed,\ 0\ failed$ ]]
}
