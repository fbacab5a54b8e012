"""What `make profile` makes of stacks: what each was working at, and the picture."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench.harness.flame import svg
from bench.harness.stacks import Frame, Samples, parse, work_of

KERNEL = "[kernel.kallsyms]"
SCRIPT = f"""python
\tffffffff81b6ccb0 _copy_to_iter ({KERNEL})
\tffffffff8201352e tcp_recvmsg ({KERNEL})
\tffffffff816bb8da ksys_read ({KERNEL})
\t           f82ec read (/usr/lib/libc.so.6)

python
\t           27fc9 blocks_sha_ni (/x/epoch/_fastio.cpython-311-x86_64-linux-gnu.so)
\t8728143f73ed16cf [unknown] ([unknown])

"""


def test_stacks_are_read_back() -> None:
    read, hashed = parse(SCRIPT)
    assert read[0] == Frame("_copy_to_iter", KERNEL)
    assert len(read) == 4
    assert [frame.in_kernel for frame in read] == [True, True, True, False]
    assert [frame.in_kernel for frame in hashed] == [False, False]
    samples = Samples()
    samples.add(read)
    samples.add(hashed)
    samples.add(hashed)
    assert samples.works == {"receive": 1, "hash": 2}
    assert samples.stacks == {
        (
            "receive",
            "read (libc.so.6)",
            "ksys_read (kernel.kallsyms)",
            "tcp_recvmsg (kernel.kallsyms)",
            "_copy_to_iter (kernel.kallsyms)",
        ): 1,
        ("hash", "blocks_sha_ni (_fastio.cpython-311-x86_64-linux-gnu.so)"): 2,
    }


@pytest.mark.parametrize(
    ("frames", "work"),
    [
        # Over the loopback device the sender does the receiver's share of TCP.
        (["tcp_v4_rcv", "net_rx_action", "tcp_sendmsg", "__x64_sys_sendmsg"], "send"),
        (["tcp_v4_rcv", "net_rx_action", "asm_sysvec_apic_timer_interrupt"], "kernel"),
        (["ep_poll", "__x64_sys_epoll_wait"], "kernel"),
        (["ext4_buffered_write_iter", "vfs_write", "ksys_pwrite64"], "send"),
        (["_copy_to_iter", "tcp_recvmsg", "__x64_sys_recvfrom"], "receive"),
    ],
)
def test_the_system_call_says_what_the_kernel_is_at(frames: list[str], work: str) -> None:
    assert work_of([Frame(symbol, KERNEL) for symbol in frames]) == work


@pytest.mark.parametrize(
    ("symbol", "file", "work"),
    [
        ("blocks_sha_ni", "/x/_fastio.so", "hash"),
        ("sha256_block_data_order_shaext", "/usr/lib/libcrypto.so.3", "hash"),
        ("aesni_gcm_decrypt", "/usr/lib/libcrypto.so.3", "tls"),
        ("CRYPTO_memcmp", "/usr/lib/libcrypto.so.3", "tls"),
        ("gcm_ghash_avx", "/usr/bin/python3.11", "tls"),
        ("_PyEval_EvalFrameDefault", "/usr/bin/python3.11", "python"),
        ("__pyx_pw_5epoch_7_fastio_10PartBuffer_1advance", "/x/_fastio.so", "python"),
    ],
)
def test_the_innermost_function_says_it_elsewhere(symbol: str, file: str, work: str) -> None:
    assert work_of([Frame(symbol, file), Frame("main", "/usr/bin/python3.11")]) == work


def test_the_picture_is_to_scale() -> None:
    picture = svg({("a", "b<&>"): 3, ("a", 'c"'): 1, ("d",): 4}, "title & more")
    root = ElementTree.fromstring(picture)
    boxes = {
        element.attrib["data-name"]: element
        for element in root.iter("{http://www.w3.org/2000/svg}g")
    }
    places = {
        name: (float(box.attrib["data-x"]), float(box.attrib["data-w"]))
        for name, box in boxes.items()
    }
    assert places == {
        "all": (0, 1200),
        "a": (0, 600),
        "b<&>": (0, 450),
        'c"': (450, 150),
        "d": (600, 600),
    }
    title = boxes["b<&>"].find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text == "b<&>: 3 samples, 37.50 %"
    with pytest.raises(ValueError, match="no samples"):
        svg({}, "nothing")
