// SPDX-License-Identifier: Apache-2.0
// `hearth doctor`: shows the diagnosis.
#include "cli/doctor/host.h"
#include "cli/format.h"
#include "cli/json.h"

namespace hearth::cli {
namespace {

const char* StateName(Check::State state) {
  switch (state) {
    case Check::State::kGood:
      return "good";
    case Check::State::kNote:
      return "note";
    case Check::State::kBad:
      break;
  }
  return "bad";
}

const char* WayName(Way way) {
  switch (way) {
    case Way::kDirect:
      return "direct";
    case Way::kTestbed:
      return "testbed";
    case Way::kNone:
      break;
  }
  return "none";
}

nlohmann::json DiagnosisJson(const Diagnosis& diagnosis) {
  nlohmann::json checks = nlohmann::json::array();
  for (const Check& check : diagnosis.checks) {
    checks.push_back({{"name", check.name},
                      {"state", StateName(check.state)},
                      {"text", check.text},
                      {"advice", check.advice}});
  }
  return {{"way", WayName(diagnosis.way)},
          {"headline", Headline(diagnosis)},
          {"why", diagnosis.why},
          {"cost", diagnosis.cost},
          {"checks", checks},
          {"kvmProbe", diagnosis.probe}};
}

}  // namespace

int Doctor(Session& session, const DoctorOptions& options) {
  const Diagnosis diagnosis = Diagnose(session.options, options);
  std::ostream& out = session.terminal.out;
  if (session.options.json) {
    out << JsonText(DiagnosisJson(diagnosis));
  } else {
    out << "host     " << SafeText(Headline(diagnosis)) << "\n";
    for (const Check& check : diagnosis.checks) {
      const std::string name =
          check.name + std::string(check.name.size() < 8 ? 8 - check.name.size() : 1, ' ');
      out << "  " << StateName(check.state) << "  " << name << " " << SafeText(check.text) << "\n";
      if (!check.advice.empty() && check.state != Check::State::kGood) {
        out << "        -->      " << SafeText(check.advice) << "\n";
      }
    }
  }
  switch (diagnosis.way) {
    case Way::kDirect:
      return kExitOk;
    case Way::kTestbed:
      return kExitTestbedOnly;
    case Way::kNone:
      break;
  }
  return kExitNoWay;
}

}  // namespace hearth::cli
