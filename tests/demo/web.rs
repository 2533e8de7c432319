//! The web server and the client, as jobs of the demo's own processes.

use std::net::SocketAddr;

use shunt_tests::web;

use crate::outcome::{Doing as _, Outcome};

/// Answers every request with the address of whoever asks.
pub(crate) fn serve(port: &str) -> Outcome<()> {
    let listener = web::listen(port.parse().doing("read a port")?).doing("listen")?;
    println!("ready");
    web::serve(&listener, |_from, _path| {}).doing("accept")
}

/// Makes one request and prints a [`web::Visit`].
pub(crate) fn get(address: &str) -> Outcome<()> {
    let address: SocketAddr = address.parse().doing("read an address")?;
    let visit = web::get(address, "/");
    println!("{}", serde_json::to_string(&visit).doing("write down what was seen")?);
    Ok(())
}
