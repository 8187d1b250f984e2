// The part of MessagePack that the protocol uses: maps, lists, text, numbers, binary data, booleans, null.

export function encode(value) {
  const parts = [[]]; // lists of bytes, and binary data as it is
  write(value, parts);
  const arrays = parts.map((part) => Uint8Array.from(part));
  const packed = new Uint8Array(arrays.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of arrays) { packed.set(part, at); at += part.length; }
  return packed;
}

function write(value, parts) {
  const out = parts[parts.length - 1];
  if (value === null || value === undefined) out.push(0xc0);
  else if (value === false || value === true) out.push(value ? 0xc3 : 0xc2);
  else if (typeof value === "number") writeNumber(value, out);
  else if (typeof value === "string") {
    const text = new TextEncoder().encode(value);
    if (text.length < 32) out.push(0xa0 | text.length);
    else out.push(0xda, text.length >> 8, text.length & 255);
    out.push(...text);
  } else if (value instanceof Uint8Array) {
    const size = value.length;
    out.push(0xc6, size >>> 24, (size >> 16) & 255, (size >> 8) & 255, size & 255);
    parts.push(value, []);
  } else if (Array.isArray(value)) {
    out.push(0xdc, value.length >> 8, value.length & 255);
    for (const item of value) write(item, parts);
  } else {
    const entries = Object.entries(value);
    out.push(0xde, entries.length >> 8, entries.length & 255);
    for (const [key, item] of entries) { write(key, parts); write(item, parts); }
  }
}

function writeNumber(value, out) {
  const view = new DataView(new ArrayBuffer(8));
  if (Number.isInteger(value) && value >= 0 && value < 2 ** 32) { view.setUint32(0, value); out.push(0xce); }
  else if (Number.isInteger(value)) { view.setBigInt64(0, BigInt(value)); out.push(0xd3); }
  else { view.setFloat64(0, value); out.push(0xcb); }
  const size = out[out.length - 1] === 0xce ? 4 : 8;
  for (let i = 0; i < size; i++) out.push(view.getUint8(i));
}

export function decode(buffer) {
  const view = new DataView(buffer);
  let at = 0;
  const take = (size) => { at += size; return at - size; };
  const text = (size) => new TextDecoder().decode(new Uint8Array(buffer, take(size), size));
  const data = (size) => new Uint8Array(buffer, take(size), size);
  const list = (size) => Array.from({ length: size }, () => read());
  const map = (size) => Object.fromEntries(Array.from({ length: size }, () => [read(), read()]));
  const u8 = () => view.getUint8(take(1));
  const u16 = () => view.getUint16(take(2));
  const u32 = () => view.getUint32(take(4));

  function read() {
    const tag = u8();
    if (tag < 0x80) return tag;
    if (tag < 0x90) return map(tag & 15);
    if (tag < 0xa0) return list(tag & 15);
    if (tag < 0xc0) return text(tag & 31);
    if (tag >= 0xe0) return tag - 256;
    switch (tag) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return data(u8());
      case 0xc5: return data(u16());
      case 0xc6: return data(u32());
      case 0xca: return view.getFloat32(take(4));
      case 0xcb: return view.getFloat64(take(8));
      case 0xcc: return u8();
      case 0xcd: return u16();
      case 0xce: return u32();
      case 0xcf: return Number(view.getBigUint64(take(8)));
      case 0xd0: return view.getInt8(take(1));
      case 0xd1: return view.getInt16(take(2));
      case 0xd2: return view.getInt32(take(4));
      case 0xd3: return Number(view.getBigInt64(take(8)));
      case 0xd9: return text(u8());
      case 0xda: return text(u16());
      case 0xdb: return text(u32());
      case 0xdc: return list(u16());
      case 0xdd: return list(u32());
      case 0xde: return map(u16());
      case 0xdf: return map(u32());
      default: throw new Error(`MessagePack: tag ${tag} is not used here`);
    }
  }
  return read();
}
