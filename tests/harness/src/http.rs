//! The part of an HTTP/1.1 server that the two local servers need.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, Read};

/// One request, with header names in lower case.
#[derive(Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// Reads the next request of a connection. Returns `None` if the client closed the connection between two requests.
    pub fn read(stream: &mut (impl Read + ?Sized)) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        loop {
            if let Some((mut request, head_length, body_length)) = parse_head(&bytes)? {
                let mut body = bytes.split_off(head_length);
                let received = body.len();
                if received > body_length {
                    return Err(invalid("more bytes than the request has"));
                }
                body.resize(body_length, 0);
                stream.read_exact(&mut body[received..])?;
                request.body = body;
                return Ok(Some(request));
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk)? {
                0 if bytes.is_empty() => return Ok(None),
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => bytes.extend_from_slice(&chunk[..count]),
            }
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// Leaves out the headers' values, one of which is the key.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "{} {} {headers:?} {body:?}", self.method, self.path)
    }
}

fn parse_head(bytes: &[u8]) -> io::Result<Option<(Request, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head_length) = head.parse(bytes).map_err(invalid)? else { return Ok(None) };
    let headers = head
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: head.path.unwrap_or_default().to_owned(),
        headers,
        body: Vec::new(),
    };
    let body_length = request.header("content-length").map_or(Ok(0), str::parse).map_err(invalid)?;
    Ok(Some((request, head_length, body_length)))
}

/// The error of a client that violates the protocol.
pub fn invalid(error: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
