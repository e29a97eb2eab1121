-- The health of an OAuthConsumer. Argo CD runs this with Lua's base and table libraries only.
--
-- Healthy means that the store holds what the object says (Ready), whatever was decided: no sync may wait for a person. The
-- message says whether the consumer can sign in, and if not, why (Active). A consumer on hold is not Suspended, because a sync
-- wave waits for that as it does for Progressing.
local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local ready, active, stalled = conditions.Ready, conditions.Active, conditions.Stalled

local function is(health, condition)
  return { status = health, message = condition.reason .. ": " .. condition.message }
end

if ready == nil or status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "Waiting for the controller" }
end
if stalled ~= nil and stalled.status == "True" then
  return is("Degraded", stalled)
end
if ready.status ~= "True" then
  return is("Progressing", ready)
end
return is("Healthy", active or ready)
