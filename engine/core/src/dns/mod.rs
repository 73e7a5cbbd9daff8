//! DNS for the application: names of services are answered with the addresses that stand for
//! them, all else is asked of this machine's resolvers.

pub mod message;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::discover;
use crate::error::Reason;
use crate::intercept;
use crate::listen::{Closing, ended};
use crate::plan::{Directory, Known, SERVICES_MAX};
use crate::record::ServiceKey;
use crate::steps::limit::try_take;
use crate::timer::{now_s, within};
use crate::worker::Worker;
use message::{A, AAAA, Code, Question};

/// Most questions of a sidecar that are being answered; further ones are dropped, and asked again.
pub const QUERIES_MAX: u32 = 512;
/// Most of them that wait for resolvers: those may be slow, and names of services need none.
pub const FORWARDED_MAX: u32 = QUERIES_MAX / 4 * 3;
/// Most services held for names to be asked of the control plane: programs may ask for any number
/// of names of the world, and must not fill the room for the services that are called.
const ASKED_MAX: usize = SERVICES_MAX / 2;
/// Longest wait for one resolver.
const TRY_TIME: Duration = Duration::from_secs(2);
/// Most resolvers asked, one after the other; as many as the C library reads.
const RESOLVERS_MAX: usize = 3;
/// Longest time that a TCP connection may say nothing.
pub const IDLE_TIME: Duration = Duration::from_secs(10);
/// Pause after a datagram could not be received.
const RECEIVE_PAUSE: Duration = Duration::from_millis(10);
/// Longest datagram taken from a client or a resolver; what is longer is asked for by TCP.
const DATAGRAM_MAX: usize = 4096;
/// The port of DNS.
const PORT: u16 = 53;

/// A place among the questions that are being answered.
struct Permit(Arc<AtomicU32>);

impl Permit {
    fn take(open: &Arc<AtomicU32>, most: u32) -> Option<Permit> {
        try_take(open, most).then(|| Permit(Arc::clone(open)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Answer datagrams until the sidecar closes.
pub async fn serve_udp(worker: Rc<Worker>, socket: std::net::UdpSocket) {
    let Ok(socket) = UdpSocket::from_std(socket).map(Rc::new) else {
        return;
    };
    let mut closing = worker.shared.closing.subscribe();
    let mut datagram = vec![0; DATAGRAM_MAX];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut datagram) => received,
            () = ended(&mut closing, Closing::All) => return,
        };
        let Ok((length, client)) = received else {
            // For want of memory; to try at once would only take the processor, too.
            tokio::time::sleep(RECEIVE_PAUSE).await;
            continue;
        };
        let Some(permit) = Permit::take(&worker.shared.dns_queries, QUERIES_MAX) else {
            continue;
        };
        let (asked, socket) = (Rc::clone(&worker), Rc::clone(&socket));
        let query = datagram[..length].to_vec();
        worker.spawn(async move {
            let _permit = permit;
            if let Some(reply) = reply(&asked, &query, Transport::Udp).await {
                // A client that has gone asks nobody again.
                let _sent = socket.send_to(&reply, client).await;
            }
        });
    }
}

/// Answer the questions of a connection, one after the other.
pub async fn serve_tcp(worker: &Rc<Worker>, mut stream: TcpStream) {
    loop {
        let read = within(IDLE_TIME, Box::pin(read_message(&mut stream))).await;
        let Some(Ok(query)) = read else { return };
        let Some(_permit) = Permit::take(&worker.shared.dns_queries, QUERIES_MAX) else {
            return;
        };
        let Some(reply) = reply(worker, &query, Transport::Tcp).await else {
            return;
        };
        let sent = within(IDLE_TIME, Box::pin(write_message(&mut stream, &reply))).await;
        if !matches!(sent, Some(Ok(()))) {
            return;
        }
    }
}

/// How a question came, and is passed on.
#[derive(Clone, Copy, Debug)]
enum Transport {
    Udp,
    Tcp,
}

/// What is known of a name.
enum Verdict {
    /// It is a service's, which has these addresses.
    Addresses(Vec<IpAddr>),
    /// It could only be a service's, and there is none.
    NoSuchName,
    /// It could only be a service's, and the control plane does not answer.
    Failed,
    /// Others have to tell.
    Unknown,
    /// Others may know it; that there is none they cannot tell, as the control plane is away.
    Unsure,
}

/// The answer to `query`; `None`: it needs none, or there is no room for the question.
async fn reply(worker: &Rc<Worker>, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let question = match message::read(query) {
        Ok(question) => question,
        Err(code) => return code.map(|code| message::refusal(query, None, code)),
    };
    let verdict = match &question.name {
        Some(name) if question.is_internet => Box::pin(look_up(worker, name)).await,
        _ => Verdict::Unknown,
    };
    let is_ours = !matches!(verdict, Verdict::Unknown | Verdict::Unsure);
    if is_ours && question.is_newer() {
        return Some(message::refusal(query, Some(&question), Code::BadVersion));
    }
    Some(match verdict {
        Verdict::Addresses(mut addresses) => {
            addresses.retain(|address| match address {
                IpAddr::V4(_) => question.kind == A,
                IpAddr::V6(_) => question.kind == AAAA && speaks_ipv6(worker),
            });
            message::answer(query, &question, Code::Fine, &addresses)
        }
        Verdict::NoSuchName => message::answer(query, &question, Code::NoSuchName, &[]),
        Verdict::Failed => message::refusal(query, Some(&question), Code::Failed),
        Verdict::Unknown | Verdict::Unsure => {
            let _permit = Permit::take(&worker.shared.dns_forwarded, FORWARDED_MAX)?;
            let settings = worker.shared.settings.intercept.as_ref();
            let asked = settings.map(|settings| resolvers(&settings.resolv_conf));
            let told = forward(&asked.unwrap_or_default(), query, &question, transport).await;
            let is_sure = matches!(verdict, Verdict::Unknown);
            told.filter(|reply| is_sure || !message::denies(reply))
                .unwrap_or_else(|| message::refusal(query, Some(&question), Code::Failed))
        }
    })
}

/// Whether a program could connect to an IPv6 address.
fn speaks_ipv6(worker: &Worker) -> bool {
    let intercept = worker.shared.settings.intercept.as_ref();
    intercept.is_some_and(|intercept| intercept.outbound.iter().any(SocketAddr::is_ipv6))
}

async fn look_up(worker: &Rc<Worker>, name: &str) -> Verdict {
    let Some((key, labels)) =
        discover::parse_name(name, &worker.shared.settings.workload.namespace)
    else {
        return Verdict::Unknown;
    };
    if !may_ask(&worker.shared.directory, &key) {
        return Verdict::Unknown;
    }
    let Some(service) = worker.shared.use_service(&key, false) else {
        return Verdict::Unknown;
    };
    // `cart` may be a name of the host or its network as well, and `cart.shop` one of the world, as
    // `example.com` is: those must not wait for a control plane that is away.
    let only_ours = labels > 2;
    let is_away = !worker.shared.connected.load(Relaxed);
    if !only_ours && is_away && service.known() == Known::Asked {
        return Verdict::Unsure;
    }
    match discover::plan(worker, &service).await {
        // A headless service has no address of its own: who knows its workloads answers.
        Ok(plan) if plan.addresses.is_empty() => Verdict::Unknown,
        Ok(plan) => {
            service.last_used_s.store(now_s(), Relaxed);
            // Who was told the address may use it at any time.
            service.declared.store(true, Relaxed);
            Verdict::Addresses(plan.addresses.clone())
        }
        Err(error) if error.reason == Reason::UnknownService => match only_ours {
            true => Verdict::NoSuchName,
            false => Verdict::Unknown,
        },
        Err(_) if only_ours => Verdict::Failed,
        Err(_) => Verdict::Unsure,
    }
}

/// Whether a name may be asked of the control plane, or is known already.
fn may_ask(directory: &Directory, key: &ServiceKey) -> bool {
    directory.len() < ASKED_MAX || directory.get(key.as_str()).is_some()
}

/// The reply of the first resolver that gives one.
async fn forward(
    resolvers: &[SocketAddr],
    query: &[u8],
    question: &Question,
    transport: Transport,
) -> Option<Vec<u8>> {
    for &address in resolvers {
        let asked = match transport {
            Transport::Udp => within(TRY_TIME, Box::pin(ask_udp(address, query, question))).await,
            Transport::Tcp => within(TRY_TIME, Box::pin(ask_tcp(address, query))).await,
        };
        if let Some(Ok(reply)) = asked
            && message::answers(&reply, query, question)
        {
            return Some(reply);
        }
    }
    None
}

/// The resolvers in force now: the file is small, and changes when a laptop changes networks.
fn resolvers(resolv_conf: &Path) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(resolv_conf).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let address = (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok());
            Some(SocketAddr::new(address??, PORT))
        })
        .take(RESOLVERS_MAX)
        .collect()
}

/// Ask by a socket, thus a port, of the question's own: nobody else can answer it.
async fn ask_udp(address: SocketAddr, query: &[u8], question: &Question) -> io::Result<Vec<u8>> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::from_std(intercept::bind_asking(any)?)?;
    socket.connect(address).await?;
    socket.send(query).await?;
    let mut reply = vec![0; DATAGRAM_MAX + 1];
    loop {
        let length = socket.recv(&mut reply).await?;
        if message::answers(&reply[..length], query, question) {
            reply.truncate(length);
            break;
        }
    }
    if reply.len() > DATAGRAM_MAX {
        return Ok(message::truncated(query, question));
    }
    Ok(reply)
}

async fn ask_tcp(address: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = intercept::connect(address, None).await?;
    write_message(&mut stream, query).await?;
    read_message(&mut stream).await
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use tokio::net::TcpListener;

    use super::*;
    use crate::observe::names::Names;
    use crate::timer::tests::{hold, on_local, pass};

    #[test]
    fn questions_wait_up_to_the_bound() {
        let open = Arc::default();
        let permits: Vec<Permit> = (0..QUERIES_MAX)
            .map(|_| Permit::take(&open, QUERIES_MAX).expect("room"))
            .collect();

        assert!(Permit::take(&open, QUERIES_MAX).is_none());
        drop(permits);
        assert!(Permit::take(&open, QUERIES_MAX).is_some());
    }

    #[test]
    fn names_of_the_world_leave_room_for_services() {
        let (directory, names) = (Directory::default(), Names::default());
        let key = |number: usize| ServiceKey::new("example", &format!("n{number}"));
        for number in 0..ASKED_MAX {
            assert!(may_ask(&directory, &key(number)), "{number}");
            directory.get_or_add(&key(number), &names);
        }

        assert!(!may_ask(&directory, &key(ASKED_MAX)));
        assert!(may_ask(&directory, &key(0)), "it is known");
    }

    #[test]
    fn resolvers_are_the_first_three_addresses() {
        let file = std::env::temp_dir().join(format!("tulle-resolv-{}", std::process::id()));
        assert_eq!(resolvers(&file), []);
        let text = "search a.example\nnameserver 10.0.0.1\n#nameserver 9.9.9.9\n\
                    nameserver ::1\nnameserver name\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n";
        std::fs::write(&file, text).expect("a file");

        let found: Vec<String> = resolvers(&file).iter().map(SocketAddr::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[::1]:53", "10.0.0.3:53"]);
        std::fs::remove_file(&file).expect("it is there");
    }

    /// Ask for `a.`, of two resolvers; the second one is asked when the first has had its time.
    async fn ask_two(resolvers: [SocketAddr; 2], transport: Transport, second: impl Future) {
        const MOMENT: Duration = Duration::from_micros(1);
        let query = b"\x07\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
        let asked = tokio::task::spawn_local(async move {
            let question = message::read(query).expect("a question");
            forward(&resolvers, query, &question, transport).await
        });
        let mut second = std::pin::pin!(second);
        let mut look =
            async || std::future::poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx))).await;
        pass(Duration::ZERO).await;
        pass(TRY_TIME - MOMENT).await;
        assert!(look().await.is_pending());
        pass(MOMENT).await;
        let held = look().await;
        assert!(held.is_ready());
        pass(TRY_TIME - MOMENT).await;
        assert!(!asked.is_finished());
        pass(MOMENT).await;
        assert!(asked.await.expect("no panic").is_none());
    }

    #[test]
    fn each_resolver_is_waited_for_so_long() {
        on_local(async {
            hold();
            let any = "127.0.0.1:0";
            let first = UdpSocket::bind(any).await.expect("a port");
            let second = UdpSocket::bind(any).await.expect("a port");
            let both = [&first, &second].map(|one| one.local_addr().expect("an address"));
            ask_two(both, Transport::Udp, second.readable()).await;
            let first = TcpListener::bind(any).await.expect("a port");
            let second = TcpListener::bind(any).await.expect("a port");
            let both = [&first, &second].map(|one| one.local_addr().expect("an address"));
            ask_two(both, Transport::Tcp, second.accept()).await;
        });
    }
}
