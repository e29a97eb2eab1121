-- The health of an OAuthConsumer. Argo CD runs this with Lua's base and table libraries only.
--
-- Healthy means that the store holds what the object says, approved or not: no sync may wait for a person. That is also why
-- one on hold is not Suspended: a sync wave waits for that as it does for Progressing.
local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local ready, approved, stalled = conditions.Ready, conditions.Approved, conditions.Stalled

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
return is("Healthy", approved or ready)
