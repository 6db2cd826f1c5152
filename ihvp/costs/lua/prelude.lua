-- In front of every script of the store of observations.
--
-- KEYS[1] = P, the namespace in braces; every key starts with it.
--
--   P:costs                              zset   '<digest>:<curvature>' -> when last observed, seconds since 1970
--   P:costs-of:<digest>:<curvature>      list   observations as JSON, newest first, bounded
--   P:costs-recent                       list   observations of any model, newest first, bounded
--   P:costs-errors                       hash   '<method>:<bucket>' -> predictions whose error fell into it

local function key(name) return KEYS[1] .. ':' .. name end
local function observed(model) return key('costs-of:' .. model) end
