// Written by `remountctl hook opencode --install`; `--uninstall` removes it.
// Tells remount-run which agent (plan, build) a session is in, so that the project is
// read-only while it plans. Outside of a sandbox it does nothing.
import { spawn } from "node:child_process"
import { existsSync } from "node:fs"

const hook = (agent) =>
  new Promise((resolve) => {
    const child = spawn("/run/remount/bin/remountctl", ["hook", "opencode", "--mode=" + agent], {
      stdio: ["ignore", "ignore", "pipe"],
    })
    let text = ""
    child.stderr.on("data", (data) => (text += data))
    child.on("error", (error) => resolve({ code: 1, text: String(error) }))
    child.on("close", (code) => resolve({ code, text: text.trim() }))
  })

export const Remount = async () => {
  if (!existsSync("/run/remount/hooks")) return {}
  const agents = new Map()
  return {
    "chat.message": async (input) => {
      if (!input.agent) return
      agents.set(input.sessionID, input.agent)
      await hook(input.agent)
    },
    "tool.execute.before": async (input) => {
      const agent = agents.get(input.sessionID)
      if (!agent) return
      const { code, text } = await hook(agent)
      // Planning, and the project could not be made read-only.
      if (code === 2) throw new Error(text)
    },
  }
}
