"""What hosts ask for. Who a host is, says its certificate alone; before it has one, a join token does."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from controller.api.calls import OCTETS, Answer, Call, No
from controller.api.parts import Parts
from controller.authority import authority, requests
from controller.policy.generations import Version
from controller.registry.catalog import Unknown
from controller.registry.hosts import Leaf
from controller.registry.records import Refused
from hostproxy.mesh import spiffe
from hostproxy.mesh.messages import (
    CertificateRequest,
    Enrolled,
    EnrolRequest,
    HostReport,
    Issued,
    Malformed,
    Message,
    Reported,
    decode,
    encode,
)
from hostproxy.mesh.spiffe import InvalidName, SpiffeId

RETRY = 5.0  # seconds, for who asks for what nobody can say now

M = TypeVar("M", bound=Message)


async def enrol(parts: Parts, call: Call) -> Answer:
    """POST /v1/enrol: the first certificate of a host, for a token that an operator made for it."""
    wait = parts.guesses.attempt(call.address, parts.clock())
    if wait:
        raise No(429, "too many attempts from this address", retry_after=wait)
    request = _decoded(call, EnrolRequest)
    try:
        spiffe.check_host(request.host)
        key = requests.public_key(request.csr.encode())
        # Before the rate, which strangers would use up otherwise; and looked at again when it is used up.
        await parts.registry.tokens.check(request.token, request.host)
        _check_rate(parts, request.host)
        host = await parts.registry.admit(request.host, request.token, requests.key_fingerprint(key))
    except (Refused, InvalidName, requests.Refused) as refused:
        await parts.audit.record(
            call.caller.actor, "host.enrol", f"host/{request.host}", result="refused", detail=str(refused)
        )
        wrong = not isinstance(refused, Refused) or refused.code in ("name", "key")
        raise No(400 if wrong else 403, str(refused)) from None
    parts.guesses.succeeded(call.address)
    identity = SpiffeId.host(parts.trust_domain, host.name)
    certificate, leaf = _issue(parts, key, identity, "")
    await parts.registry.hosts.issued(host.name, leaf, host.times)
    await parts.audit.record(
        call.caller.actor, "host.enrol", str(identity), after=leaf.fingerprint, detail=f"token {host.token}"
    )
    enrolled = Enrolled(
        trust_domain=parts.trust_domain,
        certificate=certificate,
        roots=parts.authority.roots,
        signers=tuple(signer.hex() for signer in parts.signing.signers),
    )
    return Answer(200, encode(enrolled))


async def certificates(parts: Parts, call: Call) -> Answer:
    """POST /v1/certificates: a fresh one for the host itself, or for a service that runs there, for a fresh key."""
    name = call.caller.name
    _check_rate(parts, name)
    request = _decoded(call, CertificateRequest)
    wanted = request.name if request.name == "host" else f"service/{request.name}"
    try:
        key = requests.public_key(request.csr.encode())
        identity, dns = await _identity(parts, name, request.name)
        await parts.registry.keys.claim(requests.key_fingerprint(key), name)
        certificate, leaf = _issue(parts, key, identity, dns)
        if request.name == "host":
            await parts.registry.hosts.issued(name, leaf, call.caller.times)
        else:
            # Another machine may have enrolled under the name while this was worked on.
            await parts.registry.recognise(name, call.caller.key)
    except (Refused, InvalidName, requests.Refused) as refused:
        await parts.audit.record(
            call.caller.actor, "certificate.issue", wanted, result="refused", detail=str(refused)
        )
        forbidden = isinstance(refused, Refused) and refused.code not in ("name", "key")
        raise No(403 if forbidden else 400, str(refused)) from None
    except Unknown as unknown:
        await parts.audit.record(
            call.caller.actor, "certificate.issue", wanted, result="refused", detail=str(unknown)
        )
        # What is wrong between the controller and Consul is no business of hosts.
        text = f"whether {request.name} runs on {name} cannot be found out now: see the log of the controller"
        raise No(503, text, retry_after=RETRY) from None
    # Whoever has a certificate has a line in the log: without the line there is no certificate.
    await parts.audit.record(
        call.caller.actor, "certificate.issue", str(identity), after=leaf.fingerprint, detail=f"serial {leaf.serial}"
    )
    return Answer(200, encode(Issued(certificate=certificate, roots=parts.authority.roots)))


async def bundle(parts: Parts, call: Call) -> Answer:
    """GET /v1/bundle?epoch=E&generation=G: the host's own, if it is newer than that; else 204."""
    has = Version(call.number("epoch", 2**31), call.number("generation", 2**53))
    wanted = (await parts.rollouts.view()).wanted(call.caller.name)
    if wanted is None or wanted.version <= has:
        return Answer(204)
    sealed = await parts.bundles.sealed(call.caller.name, wanted.version, wanted.confirm_within)
    return Answer(200, sealed, OCTETS)


async def report(parts: Parts, call: Call) -> Answer:
    """POST /v1/report: how the host stands; the answer says what there is for it."""
    name = call.caller.name
    wait = parts.reports.take(name, parts.clock())
    if wait:
        raise No(429, "reports come too often", retry_after=wait)
    found = _decoded(call, HostReport)
    taken = await parts.decider.take(name, found, call.address)
    if taken.differs:
        parts.distribution.tell([name])
    # Read behind that: of what is applied meanwhile a host hears by this answer, or because it is known by now.
    view = await parts.rollouts.view()
    wanted = view.wanted(name)
    version = wanted.version if wanted is not None else Version(0, 0)
    stays = view.stays(name, found)
    return Answer(200, encode(Reported(epoch=version.epoch, generation=version.generation, confirm=stays)))


async def _identity(parts: Parts, host: str, name: str) -> tuple[SpiffeId, str]:
    """Whose certificate is meant, and the DNS name in it. Raises Refused, InvalidName."""
    if name == "host":
        return SpiffeId.host(parts.trust_domain, host), ""
    identity = SpiffeId.service(parts.trust_domain, name)
    if not await parts.registry.may_have(host, name):
        catalog = ", or register it in Consul" if parts.config.registry.consul is not None else ""
        text = f"{name} is not known to run on {host}: hostproxy-controller service assign {name} {host}{catalog}"
        raise Refused("service", text)
    # It tells on which host the service runs: others know by it what to refuse when the host is denied.
    return identity, dns_of(parts, host)


def dns_of(parts: Parts, host: str) -> str:
    """The DNS name in the certificates of services on a host. Raises Refused."""
    name = f"{host}.host.{parts.trust_domain}"
    if len(name) > spiffe.MAX_SERVER_NAME:
        raise Refused("name", f"{name} has more than the {spiffe.MAX_SERVER_NAME} characters that a name can have")
    return name


def _issue(parts: Parts, key: ec.EllipticCurvePublicKey, identity: SpiffeId, dns: str) -> tuple[str, Leaf]:
    life = timedelta(seconds=parts.config.authority.leaf_life)
    chain = parts.authority.issue(key, identity, now=parts.moment(), life=life, dns=dns)
    certificate = x509.load_pem_x509_certificates(chain)[0]
    leaf = Leaf(
        serial=f"{certificate.serial_number:x}",
        fingerprint=authority.fingerprint(certificate).removeprefix("sha256:"),
        key=requests.key_fingerprint(key),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )
    return chain.decode("ascii"), leaf


def _check_rate(parts: Parts, host: str) -> None:
    wait = parts.rates.take(host, parts.clock())
    if wait:
        raise No(429, "too many certificates are asked for", retry_after=wait)


def _decoded(call: Call, kind: type[M]) -> M:
    try:
        return decode(call.body, kind)
    except Malformed as malformed:
        raise No(400, f"the body is not what is wanted: {malformed}") from None
