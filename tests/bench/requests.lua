-- Requests for wrk: a pool built once, so that a request costs the client no more than a table look-up.
-- Arguments: method, path, host, body size in bytes, "keep" or "close" for the connection.

local POOL = 500  -- different requests; three of the ten header fields vary from one to the next
local pool, turn = {}, 0

function init(arguments)
  local method, path, host, size, connection = unpack(arguments)
  local body = string.rep("x", tonumber(size))
  if connection ~= "close" then connection = "keep-alive" end
  for number = 1, POOL do
    local fields = {
      ["Host"] = host,
      ["Connection"] = connection,
      ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
      ["Accept"] = "application/json, text/plain;q=0.9, */*;q=0.8",
      ["Accept-Language"] = "en-GB,en;q=0.7,de;q=0.3",
      ["Accept-Encoding"] = "gzip, deflate, br",
      ["Cookie"] = string.format("session=%032x; theme=dark", number * 7919),
      ["Authorization"] = "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJjYXJ0In0.MEUCIQDx5uS7c0ZB1r9v",
      ["X-Request-Id"] = string.format("7f3c9a52-0d1e-4b6f-8a27-%012x", number),
      ["Traceparent"] = string.format("00-4bf92f3577b34da6a3ce929d%08x-00f067aa%08x-01", number, number),
    }
    pool[number] = wrk.format(method, path, fields, #body > 0 and body or nil)
  end
end

function request()
  turn = turn % POOL + 1
  return pool[turn]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "SUMMARY requests=%d microseconds=%d bytes=%d connect=%d read=%d write=%d timeout=%d status=%d p50=%d p99=%d\n",
    summary.requests, summary.duration, summary.bytes,
    errors.connect, errors.read, errors.write, errors.timeout, errors.status,
    latency:percentile(50), latency:percentile(99)))
end
