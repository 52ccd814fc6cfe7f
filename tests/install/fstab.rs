//! Mounted by mount(8) and /etc/fstab.

use crate::sandbox::run;

/// Both types, as they stand in fstab; and the second one also where only mount.fuse3 knows it.
#[test]
fn root_mounts_through_fstab_in_every_spelling() {
    let said = run(r#"
        install_package
        mkdir -p /var/spool/rs /mnt/queue
        retryspoolfs init /var/spool/rs/q.db
        once() { # TYPE SOURCE
            echo "$2 /mnt/queue $1 nofail,_netdev,x-systemd.automount,fmode=0640,umask=022,nodelete,sync,archived,busy_timeout=2,entry_timeout=1,attr_timeout=1,uid=7,gid=8 0 0" > /etc/fstab
            mount -a
            # A second time, as at the next boot's end: it is there already.
            mount -a
            grep -c ' /mnt/queue ' /proc/mounts
            awk '$2 == "/mnt/queue" { print $1, $3 }' /proc/mounts
            echo '{"ID":"a"}' | tee /mnt/queue/hold/a.json > /dev/null
            stat -c '%a %u %g' /mnt/queue/hold/a.json
            ls /mnt/queue | wc -l
            umount /mnt/queue
            eventually gone
        }
        once retryspoolfs /var/spool/rs/q.db
        once fuse.retryspoolfs /var/spool/rs/q.db
        once retryspoolfs sqlite:/var/spool/rs/q.db
        rm /usr/sbin/mount.fuse.retryspoolfs
        once fuse.retryspoolfs /var/spool/rs/q.db
    "#);
    let each = |source: &str| format!("1\n{source} fuse.retryspoolfs\n640 7 8\n6\n");
    let (plain, kind) = (
        each("/var/spool/rs/q.db"),
        each("sqlite:/var/spool/rs/q.db"),
    );
    assert_eq!(
        said + "\n",
        [plain.clone(), plain.clone(), kind, plain].concat()
    );
}

#[test]
fn words_of_fstab_mean_what_they_say() {
    let said = run(r#"
        install_package
        mkdir -p /mnt/queue /mnt/other
        retryspoolfs init q.db
        echo "/root/q.db /mnt/queue retryspoolfs ro 0 0
        /root/q.db /mnt/other retryspoolfs noauto,defaults 0 0" > /etc/fstab
        mount -a
        refused touch /mnt/queue/hold/.x
        grep -c ' /mnt/other ' /proc/mounts || true
        mount /mnt/other
        echo '{"ID":"a"}' | tee /mnt/other/hold/a.json > /dev/null
        ls /mnt/queue/hold
        refused mount -o remount,rw /mnt/queue
        # Only what is checked.
        umount /mnt/other
        mount -f /mnt/other; mount -v /mnt/other; umount /mnt/other
        echo "/root/q.db /mnt/other retryspoolfs nosuch 0 0" > /etc/fstab
        refused mount /mnt/other
        mount -s /mnt/other; umount /mnt/other
        echo "/root/none.db /mnt/other retryspoolfs nofail 0 0" > /etc/fstab
        refused mount /mnt/other
        echo "/root/q.db /mnt/missing retryspoolfs defaults 0 0" > /etc/fstab
        refused mount /mnt/missing
        umount /mnt/queue
    "#);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("Read-only file system"), "{said}");
    assert_eq!(lines[1..4], ["exit 1", "0", "a.json"], "{said}");
    let refusals: Vec<&str> = lines[4..].to_vec();
    let expected = [
        ("remount", "exit 1"),
        ("nosuch", "exit 1"),
        ("none.db", "exit 32"),
        ("/mnt/missing", "exit 32"),
    ];
    let said_of: Vec<&str> = refusals
        .iter()
        .filter(|l| !l.starts_with("exit"))
        .copied()
        .collect();
    let codes: Vec<&str> = refusals
        .iter()
        .filter(|l| l.starts_with("exit"))
        .copied()
        .collect();
    assert_eq!(codes, expected.map(|(_, code)| code), "{said}");
    for (name, _) in expected {
        assert!(
            said_of.iter().any(|line| line.contains(name)),
            "no {name} in {said}"
        );
    }
}

/// A user's line, mounted by that user, for whom fusermount3 does it.
#[test]
fn a_user_mounts_through_fstab() {
    let said = run(r#"
        install_package
        chmod 666 /dev/fuse
        mkdir -p /srv/user/queue
        chmod 755 /root; retryspoolfs init /srv/user/q.db
        chown -R 65534:65534 /srv/user
        for type in retryspoolfs fuse.retryspoolfs; do
            echo "/srv/user/q.db /srv/user/queue $type noauto,user 0 0" > /etc/fstab
            as_user mount /srv/user/queue
            awk '$2 == "/srv/user/queue" { print $1, $3; print $4 }' /proc/mounts | grep -oE '^/.*|user_id=[0-9]*|nosuid'
            as_user bash -c 'echo "{\"ID\":\"a\"}" | tee /srv/user/queue/hold/a.json > /dev/null; ls /srv/user/queue/hold'
            refused ls /srv/user/queue | tail -n 1
            as_user umount /srv/user/queue
            eventually gone
        done
        # What only an administrator allows.
        echo "/srv/user/q.db /srv/user/queue retryspoolfs noauto,user,allow_other 0 0" > /etc/fstab
        refused as_user mount /srv/user/queue
        sed -i 's/^#user_allow_other/user_allow_other/' /etc/fuse.conf
        as_user mount /srv/user/queue
        ls /srv/user/queue | wc -l
        as_user retryspoolfs umount /srv/user/queue
    "#);
    let each = "/srv/user/q.db fuse.retryspoolfs\nnosuid\nuser_id=65534\na.json\nexit 2\n";
    let rest = said
        .strip_prefix(&each.repeat(2))
        .unwrap_or_else(|| panic!("{said}"));
    let lines: Vec<&str> = rest.lines().collect();
    assert!(
        lines[0].contains("user_allow_other in /etc/fuse.conf"),
        "{said}"
    );
    assert_eq!(lines[1..], ["exit 1", "5"], "{said}");
}
