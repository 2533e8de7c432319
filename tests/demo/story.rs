//! The demo, step by step.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use crate::cni::{Cni, MESHED, PLAIN, Programs};
use crate::envoy::{self, Envoy};
use crate::kernel::Traces;
use crate::mesh::{Mesh, ToApp};
use crate::outcome::{Doing as _, Outcome};
use crate::place::Place;
use crate::screen::Screen;
use crate::site::{Site, WORLD_V4, WORLD_V6};
use shunt_tests::web::Visit;

/// Who the app is.
const APP: u32 = 1000;
/// The app's own port.
pub(crate) const APP_PORT: u16 = 8080;
/// The world's server.
const WEB_PORT: u16 = 80;

/// What is to be shown.
#[derive(Debug)]
pub(crate) struct Told {
    /// Whose sidecar.
    pub(crate) mesh: Mesh,
    /// The entry's `backend`.
    pub(crate) backend: String,
    /// Leave the pod as it is after the first half.
    pub(crate) keep: bool,
}

/// Tells it; true if all of it was seen.
pub(crate) fn tell(site: &Site, what: &Told) -> Outcome<bool> {
    let programs = Programs::find()?;
    let Told { mesh, backend, keep } = what;
    let keep = *keep;
    let stage = Stage { site, keep };
    let mut screen = Screen::default();
    site.make()?;
    let cni = Cni::new(site, &programs, mesh, backend)?;
    stage.serve(&stage.world(), WEB_PORT)?;

    println!(
        "Shunt, mesh {}, backend {backend}: a world with a web server, a node, a pod; real plugins, real libcni, real Envoy.",
        mesh.name
    );
    let answer = cni.call("add", MESHED)?.expect_ok("ADD")?;
    let addresses = answer.addresses()?;
    screen.step(
        "ADD",
        &format!(
            "bridge + host-local + shunt, by cnitool: {} ms, of them shunt {}",
            answer.took.as_millis(),
            cni.own_share("ADD")
        ),
    );
    let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    screen.view("pod", addresses.len() == 2, &format!("has {}", list.join(" and ")));
    let traces = Traces::count(site)?;
    screen.view("kernel", traces.of_one_pod(backend), &traces.to_string());

    let place = stage.pod("envoy", mesh.uid);
    let envoy = Envoy::start(site, mesh, APP_PORT, &place, &programs.tools.join("envoy"))?;
    stage.serve(&stage.pod("app", APP), APP_PORT)?;

    for (family, server) in [("IPv4", WORLD_V4), ("IPv6", WORLD_V6)] {
        outbound(&stage, &mut screen, family, at(server, WEB_PORT)?)?;
    }
    for pod in &addresses {
        inbound(&stage, &mut screen, mesh.to_app, SocketAddr::new(*pod, APP_PORT))?;
    }

    let answer = cni.call("check", MESHED)?;
    screen.step("CHECK", "reads the kernel, not a file");
    let said = if answer.ok { "all in place" } else { answer.text.trim() };
    screen.view("shunt", answer.ok, &format!("{said}, {} ms", answer.took.as_millis()));

    if keep {
        stage.say_how_to_enter(site)?;
        return Ok(screen.end());
    }

    envoy.kill()?;
    screen.step("Envoy killed", "nothing goes out bare");
    for server in [WORLD_V4, WORLD_V6] {
        let visit = stage.get(&stage.pod("app", APP), at(server, WEB_PORT)?)?;
        let refused = visit.error.as_deref() == Some("ECONNREFUSED");
        screen.view("app", refused, &format!("→ {}: {}", at(server, WEB_PORT)?, visit.outcome()));
    }

    let answer = cni.call("del", MESHED)?.expect_ok("DEL")?;
    screen.step("DEL", &format!("{} ms, of them shunt {}", answer.took.as_millis(), cni.own_share("DEL")));
    let traces = Traces::count(site)?;
    screen.view("kernel", traces.none_of_pod(), &traces.to_string());
    let again = cni.call("add", PLAIN)?.expect_ok("ADD without shunt")?;
    screen.step("Direct again", "the same pod, wired by bridge alone");
    for (own, server) in again.addresses()?.into_iter().zip([WORLD_V4, WORLD_V6]) {
        direct(&stage, &mut screen, own, at(server, WEB_PORT)?)?;
    }
    cni.call("del", PLAIN)?.expect_ok("DEL without shunt")?;
    Ok(screen.end())
}

fn outbound(stage: &Stage<'_>, screen: &mut Screen, family: &str, server: SocketAddr) -> Outcome<()> {
    screen.step(&format!("Out, {family}"), &format!("the app asks {server}"));
    let visit = stage.get(&stage.pod("app", APP), server)?;
    let (Some(local), Some(peer), Some(seen)) = (visit.local, visit.peer, visit.seen_by_server) else {
        screen.view("app", false, &visit.outcome());
        return Ok(());
    };
    let access = envoy::access(stage.site, local)?;
    screen.view("app", peer == server, &format!("{local} → {peer}, as without us"));
    screen.view(
        "Envoy",
        access.listener == "outbound" && access.asked_for.parse() == Ok(server),
        &format!("took {} on its way to {}", access.client, access.asked_for),
    );
    let dialled = access.dials_from.as_deref().unwrap_or("nowhere");
    screen.view(
        "server",
        dialled.parse() == Ok(seen) && seen != local && seen.ip() == local.ip(),
        &format!("was asked by {seen}, which is Envoy's connection from {dialled}"),
    );
    Ok(())
}

fn inbound(stage: &Stage<'_>, screen: &mut Screen, how: ToApp, app: SocketAddr) -> Outcome<()> {
    screen.step("In", &format!("the world asks {app}"));
    let visit = stage.get(&stage.world(), app)?;
    let (Some(local), Some(peer), Some(seen)) = (visit.local, visit.peer, visit.seen_by_server) else {
        screen.view("client", false, &visit.outcome());
        return Ok(());
    };
    let access = envoy::access(stage.site, local)?;
    screen.view("client", peer == app, &format!("{local} → {peer}"));
    screen.view(
        "Envoy",
        access.listener == "inbound" && access.asked_for.parse() == Ok(app),
        &format!("took {} on its way to {}", access.client, access.asked_for),
    );
    let proxy: [IpAddr; 2] = match how {
        ToApp::PassThrough => [IpAddr::from([127, 0, 0, 6]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 6])],
        ToApp::OwnAddress => [app.ip(), app.ip()],
        ToApp::Loopback => [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])],
    };
    screen.view("app", proxy.contains(&seen.ip()), &format!("was asked by {seen}, which is Envoy"));
    Ok(())
}

fn direct(stage: &Stage<'_>, screen: &mut Screen, own: IpAddr, server: SocketAddr) -> Outcome<()> {
    let visit = stage.get(&stage.pod("app", APP), server)?;
    let Some(seen) = visit.seen_by_server else {
        screen.view("app", false, &format!("→ {server}: {}", visit.outcome()));
        return Ok(());
    };
    let itself = visit.local == Some(seen) && seen.ip() == own;
    screen.view("server", itself, &format!("{server} was asked by {seen}, the app's own connection"));
    Ok(())
}

fn at(host: &str, port: u16) -> Outcome<SocketAddr> {
    Ok(SocketAddr::new(host.parse().doing("read an address")?, port))
}

/// The places of the site.
#[derive(Debug)]
struct Stage<'a> {
    site: &'a Site,
    keep: bool,
}

impl Stage<'_> {
    fn world(&self) -> Place {
        self.place("world", "system", 0)
    }

    /// A container of the pod.
    fn pod(&self, container: &str, id: u32) -> Place {
        self.place("pod", container, id)
    }

    fn place(&self, netns: &str, cgroup: &str, id: u32) -> Place {
        Place {
            netns: self.site.netns(netns),
            cgroup: self.site.cgroup(cgroup),
            id,
            with_us: !self.keep,
            var_lib: None,
        }
    }

    /// Starts a web server and waits until it listens. It ends with the demo, or with the site.
    fn serve(&self, place: &Place, port: u16) -> Outcome<()> {
        let log =
            File::create(self.site.path(&format!("log/web-{port}.log"))).doing("make a web server's log")?;
        let mut child = place
            .command(&["serve", &port.to_string()])?
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .doing("start a web server")?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).doing("wait for a web server")?;
        }
        if line.trim() == "ready" {
            Ok(())
        } else {
            Err(format!("the web server on port {port} does not start"))
        }
    }

    fn get(&self, place: &Place, address: SocketAddr) -> Outcome<Visit> {
        let done = place
            .command(&["get", &address.to_string()])?
            .stderr(Stdio::inherit())
            .output()
            .doing("start a client")?;
        serde_json::from_slice(&done.stdout).doing("read what a client saw")
    }

    fn say_how_to_enter(&self, site: &Site) -> Outcome<()> {
        site.keep()?;
        let app = site.cgroup("app");
        println!("\nLeft running. Into the pod, as the app (uid {APP}), with nothing of the host's hidden:");
        println!("  sh -c 'echo $$ > {}/cgroup.procs; \\", app.display());
        println!(
            "    exec nsenter --net={} setpriv --reuid {APP} --clear-groups sh'",
            site.netns("pod").display()
        );
        println!("Out of it, the world's server is http://{WORLD_V4}/ and http://[{WORLD_V6}]/.");
        println!("Envoy's view:    tail -f {}", site.path("log/access.log").display());
        println!("Remove it with:  {} --remove {}", own_path(), site.name());
        Ok(())
    }
}

fn own_path() -> String {
    std::env::current_exe().map_or_else(|_| "demo".into(), |path| path.display().to_string())
}
