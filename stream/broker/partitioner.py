"""The partitioner of Kafka's Java client: murmur2 of the key, sign bit dropped, modulo the partition count.

Source: Kafka's `Utils.murmur2`, seed 0x9747b28c.
"""

import struct

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def partition_of(key: bytes, num_partitions: int) -> int:
    """Return the partition that Java, aiokafka and kafka-python choose for `key`.

    >>> partition_of(b"foobar", 12)
    6
    """
    return (murmur2(key) & 0x7FFFFFFF) % num_partitions


def murmur2(key: bytes) -> int:
    """Return the hash as an unsigned 32-bit integer.

    >>> murmur2(b"21") - 2**32, murmur2(b"foobar") - 2**32
    (-973932308, -790332482)
    """
    length = len(key)
    h = 0x9747B28C ^ length
    num_words = length >> 2
    for word in struct.unpack_from(f"<{num_words}I", key):
        k = (word * _M) & _MASK
        k = ((k ^ (k >> 24)) * _M) & _MASK
        h = ((h * _M) & _MASK) ^ k
    tail = key[num_words << 2 :]
    if tail:
        h = ((h ^ int.from_bytes(tail, "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    return h ^ (h >> 15)
