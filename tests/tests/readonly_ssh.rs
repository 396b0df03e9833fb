//! The profile `readonly` as the `ForceCommand` of OpenSSH's server: who logs in looks around,
//! fetches files, and changes nothing.

use remount_tests::{Outcome, Sandbox, as_root, bin, require, uid};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};
use std::net::{Ipv4Addr, SocketAddrV4};

/// A server on a port of loopback, then `$4`, with the words for its client in `S`. The user has
/// a name and a home here, and is outside of any sandbox; the mount of the table is seen by
/// nobody else.
const SERVER: &str = r#"
    mount --bind "$1" /etc/passwd
    # Without the terminals' group, which an ordinary user cannot give them.
    mount --bind "$1.groups" /etc/group
    # Who logs in here is written down nowhere.
    for log in /var/log/wtmp /var/log/btmp /var/log/lastlog /run/utmp; do
        test ! -e $log || mount --bind /dev/null $log
    done
    exec setpriv --inh-caps=-all --ambient-caps=-all bash -euc '
        cd && umask 077
        for key in key host; do ssh-keygen -q -t ed25519 -N "" -C test -f $key; done
        echo "[127.0.0.1]:$2 $(cut -d" " -f1,2 host.pub)" >known
        cat >config <<END
Port $2
ListenAddress 127.0.0.1
HostKey $HOME/host
AuthorizedKeysFile $HOME/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp /usr/lib/openssh/sftp-server
ForceCommand $3 --profile readonly
END
        /usr/sbin/sshd -D -e -f config 2>log & server=$!
        trap "kill $server || true; wait $server || true; cat log >&2" EXIT
        until true 2>/dev/null <>/dev/tcp/127.0.0.1/$2; do kill -0 $server; sleep 0.05; done
        S="-F none -i $HOME/key -o IdentitiesOnly=yes -o BatchMode=yes"
        S="$S -o UserKnownHostsFile=$HOME/known"
        P=$2 H=127.0.0.1
        set +e
        eval "$4"
    ' sh "$@""#;

/// Runs `script` beside such a server: `$S` for the client, port `$P`, host `$H`.
#[track_caller]
fn beside_server(sandbox: &Sandbox, script: &str) -> Outcome {
    require("/usr/sbin/sshd");
    let name = if as_root() { "root" } else { "tester" };
    let entry = format!("{name}:x:{0}:{0}::{1}:/bin/bash\n", uid(), sandbox.home().display());
    let nobody = "sshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n";
    let passwd = sandbox.file("outside/passwd", entry + nobody);
    sandbox.file("outside/passwd.groups", format!("{name}:x:{}:\n", uid()));
    let mut unshare = vec!["--mount"];
    if as_root() {
        // Where the server's own helper is confined; the package's service makes it.
        std::fs::create_dir_all("/run/sshd").unwrap();
    } else {
        unshare.extend(["--user", "--map-current-user", "--keep-caps"]);
    }
    // Nobody else is given it as long as this socket is there, which does not listen.
    let reserved = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&reserved, true).unwrap();
    bind(&reserved, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = SocketAddrV4::try_from(getsockname(&reserved).unwrap()).unwrap();
    sandbox
        .host("unshare")
        .command(unshare)
        .command(["bash", "-euc", SERVER, "sh"])
        .arg(passwd)
        .arg(address.port().to_string())
        .arg(bin("remount-run"))
        .arg(script)
        .run()
}

#[test]
fn commands_and_logins_look_and_do_not_touch() {
    let sandbox = Sandbox::new();
    sandbox.file("home/notes", "by hand\n");
    let script = r#"
        run() { ssh $S -p $P "$@" $H; }
        ssh $S -p $P $H 'cat notes; echo "$SSH_ORIGINAL_COMMAND" | wc -w; exit 7'; echo "code $?"
        ssh $S -p $P $H 'touch notes'; echo "code $?"
        ssh $S -p $P $H 'kill -TERM $$'; echo "code $?"
        echo in | ssh $S -p $P $H 'cat; ps -o comm= -p '$server
        # A terminal, and a shell that reads what a login reads.
        echo 'echo profile was read' >.bash_profile
        printf 'echo "I am" "$0"; tty >/dev/null && echo a terminal; rm notes; exit 5\n' |
            ssh -tt $S -p $P $H 2>/dev/null | tr -d '\r'; echo "code ${PIPESTATUS[1]}"
        cat notes"#;
    let said = beside_server(&sandbox, script);
    let printed = said.success().stdout();
    let (commands, login) = printed.split_once("sshd\n").unwrap_or_else(|| panic!("{said}"));
    assert_eq!(commands, "by hand\n9\ncode 7\ncode 1\ncode 143\nin\n", "{said}");
    said.says("touch: cannot touch 'notes': Read-only file system");
    // Beside them there is what the terminal echoes.
    for line in ["profile was read\n", "I am -bash\n", "a terminal\n", "\ncode 5\n"] {
        assert!(login.contains(line), "{line}: {said}");
    }
    assert!(login.contains("cannot remove 'notes': Read-only file system"), "{said}");
    assert!(login.ends_with("by hand\n"), "{said}");
}

#[test]
fn files_are_fetched_and_none_is_sent() {
    let sandbox = Sandbox::new();
    // More than one buffer of anything on the way.
    let data: Vec<u8> = (0..300_000u32).flat_map(|n| n.to_le_bytes()).collect();
    sandbox.file("home/dir/data", &data);
    sandbox.file("outside/new", "new\n");
    let out = sandbox.dir("outside/out");
    let script = format!(
        r#"out={out} new={new}; R="ssh $S -p $P"
        scp -q $S -P $P $H:dir/data $out/scp; echo "scp $?"
        scp -q -O $S -P $P $H:dir/data $out/scp-old; echo "scp -O $?"
        echo "get dir/data $out/sftp" | sftp -q $S -P $P -b - $H >/dev/null; echo "sftp $?"
        rsync -a -e "$R" $H:dir/ $out/rsync; echo "rsync $?"
        ssh $S -p $P $H 'cat dir/data' >$out/cat; echo "cat $?"
        sum=$(sha256sum <dir/data)
        for f in scp scp-old sftp rsync/data cat; do [ "$sum" = "$(sha256sum <$out/$f)" ] && echo same; done
        scp -q $S -P $P $new $H:dir/; echo "scp $?"
        scp -q -O $S -P $P $new $H:dir/; echo "scp -O $?"
        printf 'put %s dir/\n' $new | sftp -q $S -P $P -b - $H >/dev/null; echo "sftp $?"
        for act in 'rm dir/data' 'rename dir/data dir/x' 'chmod 600 dir/data' 'mkdir dir/d'; do
            echo "$act" | sftp -q $S -P $P -b - $H >/dev/null 2>&1; echo "sftp $?"
        done
        rsync -a -e "$R" $new $H:dir/; echo "rsync $?"
        ls dir"#,
        out = out.display(),
        new = sandbox.outside().join("new").display(),
    );
    let said = beside_server(&sandbox, &script);
    let fetched = "scp 0\nscp -O 0\nsftp 0\nrsync 0\ncat 0\nsame\nsame\nsame\nsame\nsame\n";
    let sent = "scp 1\nscp -O 1\nsftp 1\nsftp 1\nsftp 1\nsftp 1\nsftp 1\nrsync 23\ndata\n";
    assert_eq!(said.stdout(), format!("{fetched}{sent}"), "{said}");
    for message in [
        "scp: dest open \"dir/new\": Failure",
        "scp: dir//new: Read-only file system",
        "failed: Read-only file system (30)",
    ] {
        said.says(message);
    }
}
