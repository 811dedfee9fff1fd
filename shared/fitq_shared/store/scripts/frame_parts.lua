-- Functions for scripts that handle frames, which lie in parts: the first under the frame's own key, the next ones under
-- that key and `:1`, `:2` and so on. See frame_parts.py.

local function part(key, n) return n == 0 and key or key .. ':' .. n end

-- Give a frame of so many parts another key, to stay. Return false, and do nothing, where a part of it is missing.
local function move_frame(from, to, parts)
  for n = 0, parts - 1 do if redis.call('EXISTS', part(from, n)) == 0 then return false end end
  for n = 0, parts - 1 do
    redis.call('RENAME', part(from, n), part(to, n))
    redis.call('PERSIST', part(to, n))
  end
  return true
end

local function remove_frame(key)
  local n = 0
  while redis.call('UNLINK', part(key, n)) == 1 do n = n + 1 end
end

local function frame_size(key)
  local n, size = 0, 0
  repeat
    local bytes = redis.call('STRLEN', part(key, n))
    n, size = n + 1, size + bytes
  until bytes == 0
  return size
end
