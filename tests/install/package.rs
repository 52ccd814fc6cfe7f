//! The package.

use crate::sandbox::run;

/// Installed, used and removed; and nothing is left.
#[test]
fn the_package_comes_and_goes() {
    let said = run(r#"
        command -v retryspoolfs && exit 1
        cp /etc/updatedb.conf /tmp/before
        install_package
        diff <(tr ' "' '\n\n' < /tmp/before | sort) <(tr ' "' '\n\n' < /etc/updatedb.conf | sort) || true
        dpkg -i /tmp/bring/package.deb > /dev/null
        grep -o fuse.retryspoolfs /etc/updatedb.conf | wc -l
        dpkg -L retryspoolfs > /tmp/files
        retryspoolfs init q.db && mkdir point && retryspoolfs mount q.db point
        echo $(ls point); retryspoolfs umount point; eventually gone
        dpkg -r retryspoolfs > /dev/null
        cmp /tmp/before /etc/updatedb.conf
        while read -r file; do [ -d "$file" ] || [ ! -e "$file" ] || echo "left: $file"; done < /tmp/files
        [ ! -e /usr/share/doc/retryspoolfs ]
        ls q.db
    "#);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[1..],
        [
            "> fuse.retryspoolfs",
            "1",
            "active bounce deferred hold incoming",
            "q.db"
        ]
    );
}

/// What pruned the type before stays as it was, as does a file of another form.
#[test]
fn updatedbs_file_is_changed_with_care() {
    let said = run(r#"
        for line in 'PRUNEFS="fuse.retryspoolfs proc"' 'PRUNEFS = "proc"' '# PRUNEFS="proc"' 'PRUNEPATHS="/tmp"'; do
            echo "$line" > /etc/updatedb.conf
            install_package
            cat /etc/updatedb.conf
            dpkg -r retryspoolfs > /dev/null
        done
        rm /etc/updatedb.conf
        install_package
        ls /etc/updatedb.conf 2> /dev/null || true
        # It comes later than this package does.
        echo 'PRUNEFS="proc"' > /etc/updatedb.conf
        /var/lib/dpkg/info/retryspoolfs.postinst triggered /etc/updatedb.conf
        cat /etc/updatedb.conf
    "#);
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            r#"PRUNEFS="fuse.retryspoolfs proc""#,
            r#"PRUNEFS = "fuse.retryspoolfs proc""#,
            r##"# PRUNEFS="proc""##,
            r#"PRUNEPATHS="/tmp""#,
            r#"PRUNEFS="fuse.retryspoolfs proc""#,
        ]
    );
}

#[test]
fn manual_pages_completions_and_units_are_sound() {
    let said = run(r#"
        install_package
        for page in /usr/share/man/man[578]/*retryspoolfs*; do
            man --warnings -l "$page" 2>&1 > /tmp/page | sed "s|^|$page: |"
            grep -qi retryspool /tmp/page || echo "$page is empty"
        done
        # A page for each command that --help names, and for nothing else.
        retryspoolfs --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' | grep -v '^help$' | sort > /tmp/commands
        ls /usr/share/man/man8 | sed -n 's/^retryspoolfs-\([a-z]*\)\.8\.gz$/\1/p' | sort | diff /tmp/commands -
        man retryspoolfs-mount | col -b > /tmp/page
        retryspoolfs mount --help | grep -oE -- '(--[a-z-]+|^  [a-z_]+=?)' | while read -r word; do
            grep -qF -- "$word" /tmp/page || echo "the page has no $word"
        done
        # A shell completes with it.
        . /usr/share/bash-completion/completions/retryspoolfs
        COMP_WORDS=(retryspoolfs umo) COMP_CWORD=1
        _retryspoolfs retryspoolfs umo retryspoolfs
        echo "${COMPREPLY[@]}"
        # Units that systemd understands. It wants the file of settings only when it starts one.
        systemd-analyze verify --man=no retryspoolfs@queue.service 2>&1
        mkdir -p /mnt/queue
        cp /usr/share/doc/retryspoolfs/examples/mnt-queue.* /etc/systemd/system/
        systemd-analyze verify --man=no mnt-queue.mount mnt-queue.automount 2>&1
        # None of what would hide the mount from everybody else.
        grep -E '^(Private|Protect|Read|Inaccessible|Bind|Temporary|Root)' /usr/lib/systemd/system/retryspoolfs@.service || true
    "#);
    assert_eq!(said, "umount");
}
