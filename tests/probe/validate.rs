//! A mesh's validator, one try of it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shunt_tests::ask::plain;
use shunt_tests::validation::{Sign, Validated, Validation};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::socket::{Failure, at, socket_address};

/// How long a step may take; nobody answers at the addresses of documentation that validators dial.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prints what came of it.
pub(crate) fn run(validation: &Validation) -> ExitCode {
    let mut came = Validated { error: None, met: None, original: None, passed: false };
    if let Err(failure) = once(validation, &mut came) {
        came.error = Some(failure);
    }
    println!("{}", serde_json::json!(came));
    ExitCode::SUCCESS
}

fn once(validation: &Validation, came: &mut Validated) -> Result<(), Failure> {
    // As their languages do it, with SO_REUSEADDR.
    let listeners: Vec<TcpListener> =
        validation.listen.iter().map(TcpListener::bind).collect::<Result<_, _>>().map_err(at("listen"))?;
    let token = format!("token-{}", std::process::id());
    let dialled = dial(validation);
    if validation.sign == Sign::Destination {
        // This one's client is gone before the server looks.
        drop(dialled);
        accept(&listeners, &token, came)?;
        came.passed = came.original == Some(validation.to);
        return Ok(());
    }
    let mut connection = dialled?;
    if validation.sign == Sign::Connection {
        came.passed = true;
        return accept(&listeners, &token, came);
    }
    accept(&listeners, &token, came)?;
    let mut said = String::new();
    connection.read_to_string(&mut said).map_err(at("read"))?;
    came.passed = said == token;
    Ok(())
}

fn dial(validation: &Validation) -> Result<TcpStream, Failure> {
    let socket = Socket::new(Domain::for_address(validation.to), Type::STREAM, Some(Protocol::TCP))
        .map_err(at("socket"))?;
    if let Some(from) = validation.from {
        socket.bind(&from.into()).map_err(at("bind"))?;
    }
    socket.set_read_timeout(Some(PATIENCE)).map_err(at("timeout"))?;
    socket.connect_timeout(&validation.to.into(), PATIENCE).map_err(at("connect"))?;
    Ok(socket.into())
}

/// Takes the connection, wherever it has arrived, and says the token.
fn accept(listeners: &[TcpListener], token: &str, came: &mut Validated) -> Result<(), Failure> {
    let mut waiting: Vec<PollFd<'_>> =
        listeners.iter().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)).collect();
    let patience = PollTimeout::try_from(PATIENCE).expect("seconds fit");
    poll(&mut waiting, patience).map_err(|errno| at("wait")(errno.into()))?;
    let arrived = waiting.iter().position(|one| one.any() == Some(true));
    let Some(listener) = arrived.and_then(|index| listeners.get(index)) else {
        return Err(at("wait")(std::io::Error::from_raw_os_error(libc::ETIMEDOUT)));
    };
    let (mut connection, peer) = listener.accept().map_err(at("accept"))?;
    came.met = listener.local_addr().ok();
    let asked = SockRef::from(&connection);
    let original = if plain(peer).is_ipv4() { asked.original_dst_v4() } else { asked.original_dst_v6() };
    came.original = socket_address(original).ok().map(plain);
    // A client that has gone does not hear it.
    let _unheard = connection.write_all(token.as_bytes());
    Ok(())
}
