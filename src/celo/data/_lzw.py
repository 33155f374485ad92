"""Decompression of the LZW variant of compress(1), which no standard library module reads."""

CLEAR = 256
FIRST_WIDTH = 9
LAST_WIDTH = 16
CODES_IN_GROUP = 8


def decompress(data: bytes) -> bytes:
    """Decode a compress(1) stream in block mode, at most 16 bits a code, without its 3-byte header.

    Codes are written in groups of eight, so a group of `width`-bit codes fills `width` bytes; where the
    width changes or the table is cleared, the rest of the group is padding.

    Raises:
      ValueError: a code points beyond the table, so the stream is damaged.
    """
    roots = [bytes([value]) for value in range(256)] + [b""]  # the last entry stands for CLEAR
    table, width, previous = roots.copy(), FIRST_WIDTH, b""
    out = bytearray()
    position = 0
    while position < len(data):
        chunk = data[position : position + width]
        position += width
        group = int.from_bytes(chunk, "little")
        for _ in range(min(CODES_IN_GROUP, 8 * len(chunk) // width)):
            code = group & ((1 << width) - 1)
            group >>= width
            if code == CLEAR:
                table, width, previous = roots.copy(), FIRST_WIDTH, b""
                break
            if code > len(table) or (code == len(table) and not previous):
                raise ValueError(f"LZW code {code} beyond a table of {len(table)} entries")
            # A code may name the very entry this step adds: the previous string and its own first byte.
            entry = table[code] if code < len(table) else previous + previous[:1]
            out += entry
            if previous and len(table) < 1 << LAST_WIDTH:
                table.append(previous + entry[:1])
            previous = entry
            if len(table) >= 1 << width and width < LAST_WIDTH:
                width += 1
                break
    return bytes(out)
