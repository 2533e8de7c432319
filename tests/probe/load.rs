//! The near end of a load: one thread that does what it is told and says how long each took.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use shunt_tests::ask::plain;
use shunt_tests::figures::sample::of_sorted;
use shunt_tests::load::{Did, HELLO, Kind, Order, Way, greeted, hello};
use socket2::{Domain, SockAddr, Socket, Type};

/// Nothing here takes this long; what does has hung.
const PATIENCE: Duration = Duration::from_secs(20);

/// Microseconds of CPU this process has used, its own and the kernel's for it.
#[expect(clippy::cast_precision_loss, reason = "microseconds of a bench")]
pub(crate) fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask for its own");
    (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64
}

/// Connections that stay open from one order to the next.
#[derive(Default)]
struct Open {
    kept_for: Option<(Way, usize, usize)>,
    sockets: Vec<Socket>,
    epoll: Option<Epoll>,
}

/// Takes orders until stdin ends.
pub(crate) fn run() -> ExitCode {
    let mut open = Open::default();
    for line in io::stdin().lock().lines() {
        let line = line.expect("orders are text");
        let order: Order = serde_json::from_str(&line).expect("an order");
        let did = follow(order, &mut open).unwrap_or_else(|error| panic!("{order:?}: {error}"));
        println!("{}", serde_json::json!(did));
    }
    ExitCode::SUCCESS
}

fn follow(order: Order, open: &mut Open) -> io::Result<Did> {
    match order {
        Order::RoundTrips { way, connections, size, ms } => {
            if open.kept_for != Some((way, connections, size)) {
                *open = Open::default();
                *open = Open::new(way, connections, size)?;
            }
            open.round_trips(size, ms)
        }
        Order::Connects { way, connections, ms, most, may_fail } => {
            connects(way, connections, ms, most, may_fail)
        }
        Order::Stream { way, connections, size, ms } => stream(way, connections, size, ms),
        Order::Questions { to, connected, ms } => questions(to, connected, ms),
        Order::Close => {
            *open = Open::default();
            Ok(Did::default())
        }
    }
}

/// A clock over an order.
struct Clock {
    started: Instant,
    cpu: f64,
    end: Instant,
    times: Vec<f64>,
}

impl Clock {
    fn start(ms: u64) -> Self {
        let times = Vec::with_capacity(1 << 16);
        let (cpu, started) = (cpu(), Instant::now());
        Self { started, cpu, end: started + Duration::from_millis(ms), times }
    }

    fn took(&mut self, since: Instant) -> Instant {
        let now = Instant::now();
        self.times.push((now - since).as_secs_f64() * 1e6);
        now
    }

    fn did(mut self) -> Did {
        let seconds = self.started.elapsed().as_secs_f64();
        let cpu = cpu() - self.cpu;
        self.times.sort_unstable_by(f64::total_cmp);
        let percentile = |percent| of_sorted(&self.times, percent).unwrap_or(0.0);
        Did {
            count: u64::try_from(self.times.len()).unwrap_or(u64::MAX),
            seconds,
            percentiles: [50.0, 99.0, 99.9].map(percentile),
            cpu,
            ..Did::default()
        }
    }
}

fn socket(to: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), kind, None)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    if kind == Type::STREAM {
        socket.set_tcp_nodelay(true)?;
    }
    Ok(socket)
}

/// Connects and says what for.
fn begin(way: Way, kind: Kind, size: usize) -> io::Result<Socket> {
    let socket = socket(way.to, Type::STREAM)?;
    socket.connect(&SockAddr::from(way.to))?;
    (&socket).write_all(&hello(kind, size, way.ask))?;
    Ok(socket)
}

/// Hears who answers and whether it knows where we wanted to go.
fn hear(way: Way, mut socket: &Socket) -> io::Result<()> {
    let mut bytes = [0; HELLO];
    socket.read_exact(&mut bytes)?;
    let (port, original) = greeted(&bytes);
    let wanted = way.ask.then(|| plain(way.to));
    if port == way.answers && original == wanted {
        return Ok(());
    }
    Err(io::Error::other(format!("port {port} answered and knew {original:?}, for {way:?}")))
}

fn connected(way: Way, kind: Kind, size: usize) -> io::Result<Socket> {
    let socket = begin(way, kind, size)?;
    hear(way, &socket)?;
    Ok(socket)
}

impl Open {
    fn new(way: Way, connections: usize, size: usize) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        let mut sockets = Vec::with_capacity(connections);
        for number in 0..connections {
            let socket = connected(way, Kind::Echo, size)?;
            let key = u64::try_from(number).map_err(io::Error::other)?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, key))?;
            sockets.push(socket);
        }
        Ok(Self { kept_for: Some((way, connections, size)), sockets, epoll: Some(epoll) })
    }

    fn round_trips(&self, size: usize, ms: u64) -> io::Result<Did> {
        let message = vec![b'm'; size];
        let mut buffer = vec![0; size];
        let epoll = self.epoll.as_ref().ok_or_else(|| io::Error::other("nothing is open"))?;
        let mut events = vec![EpollEvent::empty(); 256];
        let mut clock = Clock::start(ms);
        // When each was sent and how much of it has come back.
        let mut state = Vec::with_capacity(self.sockets.len());
        for mut socket in &self.sockets {
            state.push((Instant::now(), 0));
            socket.write_all(&message)?;
        }
        let mut waiting = self.sockets.len();
        while waiting > 0 {
            let patience = EpollTimeout::try_from(PATIENCE).map_err(io::Error::other)?;
            let count = epoll.wait(&mut events, patience)?;
            if count == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            for event in events.iter().take(count) {
                let number = usize::try_from(event.data()).map_err(io::Error::other)?;
                let (Some(mut socket), Some((sent, have))) =
                    (self.sockets.get(number), state.get_mut(number))
                else {
                    continue;
                };
                match socket.read(&mut buffer)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    more => *have += more,
                }
                if *have < size {
                    continue;
                }
                let now = clock.took(*sent);
                if now >= clock.end {
                    waiting -= 1;
                    continue;
                }
                (*sent, *have) = (now, 0);
                socket.write_all(&message)?;
            }
        }
        Ok(clock.did())
    }
}

/// Each closes first. With several at a time all are opened before the first is heard.
fn connects(way: Way, connections: usize, ms: u64, most: usize, may_fail: bool) -> io::Result<Did> {
    let mut clock = Clock::start(ms);
    let mut failed = 0;
    let mut fail = |error| {
        failed += 1;
        if may_fail { Ok(()) } else { Err(error) }
    };
    let mut begun = Vec::with_capacity(connections);
    let mut total = 0;
    while total < most && Instant::now() < clock.end {
        for _ in 0..connections {
            let since = Instant::now();
            total += 1;
            match begin(way, Kind::Echo, HELLO) {
                Ok(socket) => begun.push((since, socket)),
                Err(error) => fail(error)?,
            }
        }
        for (since, socket) in begun.drain(..) {
            match hear(way, &socket) {
                Ok(()) => {
                    drop(socket);
                    clock.took(since);
                }
                Err(error) => fail(error)?,
            }
        }
    }
    Ok(Did { failed, ..clock.did() })
}

fn stream(way: Way, connections: usize, size: usize, ms: u64) -> io::Result<Did> {
    let message = vec![b'm'; size];
    let sockets: Vec<Socket> =
        (0..connections).map(|_| connected(way, Kind::Sink, size)).collect::<io::Result<_>>()?;
    let clock = Clock::start(ms);
    let mut writes = 0_u64;
    while Instant::now() < clock.end {
        for mut socket in &sockets {
            socket.write_all(&message)?;
            writes += 1;
        }
    }
    let mut bytes = 0;
    for socket in &sockets {
        socket.shutdown(Shutdown::Write)?;
    }
    for mut socket in &sockets {
        let mut count = [0; 8];
        socket.read_exact(&mut count)?;
        bytes += u64::from_be_bytes(count);
    }
    Ok(Did { count: writes, bytes, ..clock.did() })
}

fn questions(to: SocketAddr, connected: bool, ms: u64) -> io::Result<Did> {
    let socket = socket(to, Type::DGRAM)?;
    let at = SockAddr::from(to);
    if connected {
        socket.connect(&at)?;
    }
    let question = [b'q'; HELLO];
    let mut answer = [0; HELLO];
    let mut clock = Clock::start(ms);
    while Instant::now() < clock.end {
        let since = Instant::now();
        if connected {
            socket.send(&question)?
        } else {
            socket.send_to(&question, &at)?
        };
        if (&socket).read(&mut answer)? != HELLO {
            return Err(io::Error::other("half an answer"));
        }
        clock.took(since);
    }
    Ok(clock.did())
}
