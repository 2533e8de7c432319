use shunt_tests::ask::Dial;
use shunt_tests::machine::containerd::Version;

use crate::host::Host;
use crate::pods::{answers, Spec};

fn go(version: Version) {
    let begun = std::time::Instant::now();
    let host = Host::new("smoke", version, "ebpf");
    eprintln!("host {:?}", begun.elapsed());
    let plain = host.pod(&Spec::plain("plain"), false);
    eprintln!("plain {:?} {:?}", begun.elapsed(), plain.addresses());
    eprintln!("{:?}", answers(&plain.dial(&Dial::to(["10.96.0.10:80", "[fd96::1]:80"]))));
    let meshed = host.pod(&Spec::meshed("meshed"), true);
    eprintln!("meshed {:?} {:?}", begun.elapsed(), meshed.addresses());
    eprintln!("{:?}", answers(&meshed.dial(&Dial::to(["10.96.0.10:81", "[fd96::1]:81"]))));
    eprintln!("{}", host.machine.run("find", &["/sys/fs/bpf", "/run/shunt"]));
    eprintln!("{}", host.machine.logs());
    meshed.remove();
    plain.remove();
    eprintln!("{:?}", begun.elapsed());
    eprintln!("{}", host.machine.run("find", &["/sys/fs/bpf", "/run/shunt"]));
}

#[test]
fn smoke_2() {
    go(Version::V2);
}

#[test]
fn smoke_1() {
    go(Version::V1_6);
}
