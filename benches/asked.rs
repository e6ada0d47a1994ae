//! An issuer's introspection endpoint (RFC 7662) that says of every token that it is active.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Serves on loopback, on a thread for each connection, until the process ends. Returns where.
pub(crate) fn serve(answer: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/introspect", listener.local_addr().unwrap());
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
        answer.len()
    );
    thread::spawn(move || {
        for caller in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            // A caller that is gone is served.
            thread::spawn(move || answer_all(caller, &answer).unwrap_or_default());
        }
    });
    url
}

fn answer_all(mut caller: TcpStream, answer: &str) -> io::Result<()> {
    caller.set_nodelay(true)?;
    let mut head = Vec::new();
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            caller.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        caller.read_exact(&mut body)?;
        caller.write_all(answer.as_bytes())?;
    }
}
