"""Workloads: join, connect, be an endpoint, leave; and all of it over a restart."""

import pytest
from cryptography import x509

from tests.control.fake_hub import make_csr, workload
from tulle.errors import StoreError

CART = "/apis/tulle.dev/v1alpha1/namespaces/shop/workloads/cart-1"
CART_ID = "spiffe://tulle.local/ns/shop/sa/cart"


def status_of(mesh, path=CART):
    return mesh.api("GET", path).json()["status"]


def test_a_join_gets_a_certificate_of_the_identity_its_token_grants(shop):
    code, answer = shop.join("cart-1", "cart")

    assert code == 200
    leaf = x509.load_pem_x509_certificates(answer["chain_pem"].encode())[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [CART_ID]
    assert answer["trust_domain"] == "tulle.local"
    assert answer["roots_pem"] == [shop.plane.roots_pem()]


def test_a_join_registers_the_workload_and_its_namespace(mesh):
    mesh.join("cart-1", "cart")

    found = mesh.api("GET", CART).json()
    assert found["spec"]["ports"] == [{"port": 8080, "protocol": "http", "listen": 41234}]
    assert found["metadata"]["labels"] == {"app": "cart"}
    assert found["status"]["ready"] is False
    assert mesh.api("GET", "/api/v1/namespaces/shop").status_code == 200


@pytest.mark.parametrize(
    ("changes", "code", "why"),
    [
        ({"token": "made.up"}, 403, "not known"),
        ({"token": 3}, 400, "token"),
        ({"csr_pem": "no pem"}, 400, "signing request"),
        ({"workload": workload("cart-1", "web")}, 403, "service account"),
        ({"workload": workload("Cart 1", "cart")}, 400, "name"),
        ({"workload": {"namespace": "shop"}}, 400, "is missing"),
        ({"workload": None}, 400, "must be an object"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_join_that_is_not_in_order_is_refused_with_the_reason(shop, changes, code, why):
    status, answer = shop.join("cart-1", "cart", **changes)

    assert (status, why in answer["error"]) == (code, True), answer


def test_a_token_is_good_for_one_join(shop):
    body = {"namespace": "shop", "service_account": "cart"}
    token = shop.api("POST", "/tulle/v1/tokens", json=body).json()["token"]
    assert shop.join("cart-1", "cart", token=token)[0] == 200

    status, answer = shop.join("cart-2", "cart", token=token)

    assert (status, "used" in answer["error"]) == (403, True)


def test_a_token_for_a_service_is_refused_to_workloads_it_does_not_select(shop):
    body = {"namespace": "shop", "service_account": "cart", "service": "web"}
    token = shop.api("POST", "/tulle/v1/tokens", json=body).json()["token"]

    assert shop.join("cart-1", "cart", token=token)[0] == 403


def test_nobody_can_take_the_name_of_a_connected_workload_of_another_account(shop):
    shop.connect("cart-1", "cart")

    code, answer = shop.join("cart-1", "web")

    assert (code, "service account 'cart'" in answer["error"]) == (409, True)
    assert shop.endpoints("shop/cart") == ["shop/cart-1"]


def test_a_renewal_signs_the_identity_of_the_connection(shop):
    request_id = shop.hub.ask("renew", identity=CART_ID, body={"csr_pem": make_csr()})
    shop.settle()

    code, answer = shop.hub.replies[request_id]
    assert code == 200
    leaf = x509.load_pem_x509_certificates(answer["chain_pem"].encode())[0]
    assert leaf.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value.get_values_for_type(x509.UniformResourceIdentifier) == [CART_ID]


def test_endpoints_appear_when_a_workload_is_ready(shop):
    shop.join("cart-1", "cart")
    peer = shop.connect("cart-1", "cart", ready=False)
    assert shop.endpoints("shop/cart") == []

    shop.hub.say(peer, "status", ready=True, draining=False)
    shop.settle()

    assert shop.endpoints("shop/cart") == ["shop/cart-1"]


def test_a_draining_workload_leaves_at_once(shop):
    peer = shop.connect("cart-1", "cart")
    shop.hub.say(peer, "status", ready=True, draining=True)
    shop.settle()

    assert shop.endpoints("shop/cart") == []


def test_a_lost_sidecar_leaves_when_its_lease_ends(shop):
    peer = shop.connect("cart-1", "cart")
    shop.hub.drop(peer.id)
    shop.settle()
    shop.advance(4.9)
    assert shop.endpoints("shop/cart") == ["shop/cart-1"]

    shop.advance(0.2)

    assert shop.endpoints("shop/cart") == []
    assert status_of(shop)["connected"] is False


def test_a_reconnect_within_the_lease_changes_nothing(shop):
    peer = shop.connect("cart-1", "cart")
    before = shop.plane.store.revision
    shop.hub.drop(peer.id)
    shop.settle()
    shop.advance(3)

    shop.connect("cart-1", "cart")
    shop.advance(100)

    assert shop.endpoints("shop/cart") == ["shop/cart-1"]
    assert shop.plane.store.revision == before


def test_a_status_that_says_nothing_new_is_not_written(shop):
    peer = shop.connect("cart-1", "cart")
    before = shop.plane.store.revision

    shop.clock.advance(50)
    shop.hub.say(peer, "status", ready=True, draining=False)
    shop.settle()

    assert shop.plane.store.revision == before


def test_a_workload_that_stays_away_is_deleted(shop):
    peer = shop.connect("cart-1", "cart")
    shop.hub.drop(peer.id)
    shop.settle()
    shop.advance(5)
    shop.advance(599)
    assert shop.api("GET", CART).status_code == 200

    shop.advance(1)

    assert shop.api("GET", CART).status_code == 404


def test_after_a_restart_records_are_the_same_bytes_while_sidecars_return(shop):
    shop.connect("cart-1", "cart")
    shop.connect("cart-2", "cart")
    before = shop.plane.publisher.encoded("endpoints/shop/cart")

    shop.restart()
    shop.advance(29)
    assert shop.plane.publisher.encoded("endpoints/shop/cart") == before

    shop.connect("cart-1", "cart")
    assert shop.plane.publisher.encoded("endpoints/shop/cart") == before
    shop.advance(1)

    assert shop.endpoints("shop/cart") == ["shop/cart-1"]


def test_a_process_with_other_ports_is_a_new_one_and_not_ready_yet(shop):
    shop.connect("cart-1", "cart")

    identity = CART_ID
    shop.hub.connect(identity, workload("cart-1", "cart", listen=5555))
    shop.settle()

    assert shop.endpoints("shop/cart") == []
    assert shop.api("GET", CART).json()["spec"]["ports"][0]["listen"] == 5555


def test_a_newer_connection_replaces_the_older_one(shop):
    old = shop.connect("cart-1", "cart")
    shop.connect("cart-1", "cart")

    assert old.goodbye == "replaced by a newer connection"
    shop.advance(100)
    assert shop.endpoints("shop/cart") == ["shop/cart-1"]


@pytest.mark.parametrize(
    ("identity", "hello"),
    [
        ("spiffe://tulle.local/ns/shop/sa/web", workload("cart-1", "cart")),
        ("spiffe://tulle.local/ns/bank/sa/cart", workload("cart-1", "cart")),
        (CART_ID, workload("cart-1", "cart") | {"address": "not an address"}),
        (CART_ID, {"namespace": "shop"}),
    ],
    ids=["account", "namespace", "address", "incomplete"],
)
def test_a_hello_that_does_not_fit_is_disconnected(shop, identity, hello):
    peer = shop.hub.connect(identity, hello)
    shop.settle()

    assert peer.goodbye is not None
    assert peer.goodbye.startswith("refused: ")
    assert shop.api("GET", CART).status_code == 404


def test_a_workload_deleted_under_a_connected_sidecar_comes_back(shop):
    shop.connect("cart-1", "cart")
    shop.api("DELETE", CART)
    assert shop.endpoints("shop/cart") == []

    shop.advance(0.25)

    assert shop.endpoints("shop/cart") == ["shop/cart-1"]


def test_fifty_sidecars_that_come_at_once_cost_few_commits(shop):
    for number in range(50):
        peer = shop.hub.connect(CART_ID, workload(f"cart-{number}", "cart", 20000 + number))
        shop.hub.say(peer, "status", ready=True, draining=False)
    commits = []
    shop.plane.listen(lambda: commits.append(1))
    shop.settle()

    assert len(shop.endpoints("shop/cart")) == 50
    assert len(commits) == 1


def test_no_connection_takes_the_name_of_a_connected_workload_of_another_account(shop):
    victim = shop.connect("cart-1", "cart")

    thief = shop.connect("cart-1", "web", labels={"app": "cart"}, address="127.0.0.66")

    assert thief.goodbye is not None
    assert "is connected with service account 'cart'" in thief.goodbye
    assert victim.goodbye is None
    assert shop.endpoints("shop/cart") == ["shop/cart-1"]
    assert shop.api("GET", CART).json()["spec"]["address"] == "127.0.0.1"


def test_a_join_does_not_take_a_connected_workload_out_of_its_services(shop):
    shop.connect("cart-1", "cart")

    assert shop.join("cart-1", "cart")[0] == 200
    shop.advance(100)

    assert shop.endpoints("shop/cart") == ["shop/cart-1"]
    assert status_of(shop)["connected"] is True


def test_a_join_after_a_lost_connection_is_a_new_process_that_is_not_ready(shop):
    peer = shop.connect("cart-1", "cart")
    shop.hub.drop(peer.id)

    assert shop.join("cart-1", "cart")[0] == 200

    assert shop.endpoints("shop/cart") == []


def test_a_join_with_a_wrong_signing_request_registers_nothing(shop):
    assert shop.join("cart-1", "cart", csr_pem="no pem")[0] == 400

    assert shop.api("GET", CART).status_code == 404


def test_a_status_that_waited_for_room_on_the_disk_is_written_over_what_came_between(
    shop, monkeypatch
):
    peer = shop.connect("cart-1", "cart")

    def full(changes):
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(shop.plane.workloads, "_commit", full)
        shop.hub.say(peer, "status", ready=False, draining=False)
        shop.settle()
    changed = shop.api("GET", CART).json()
    changed["metadata"]["labels"]["team"] = "a"
    assert shop.api("PUT", CART, json=changed).status_code == 200

    shop.plane.workloads.flush()

    assert status_of(shop)["ready"] is False


def test_a_full_disk_does_not_end_the_control_plane_when_tokens_expire(shop, monkeypatch):
    body = {"namespace": "shop", "service_account": "cart", "ttl_s": 1}
    shop.api("POST", "/tulle/v1/tokens", json=body)

    def full():
        raise StoreError("the disk is full")

    monkeypatch.setattr(shop.plane.tokens, "forget_expired", full)
    shop.advance(120)

    assert shop.api("GET", "/readyz").status_code == 200
