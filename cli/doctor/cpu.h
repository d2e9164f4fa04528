// SPDX-License-Identifier: Apache-2.0
// The part of the diagnosis that is about processors: this host's, and which hosts share snapshots.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/commands.h"
#include "cli/doctor/host.h"
#include "hearth/snapshot/v1/snapshot.pb.h"

namespace hearth::cli {

// Of `doctor --baseline`. A host's document has some 20 KiB.
inline constexpr size_t kMaxHostFileBytes = size_t{1} << 20;
inline constexpr size_t kMaxHostFiles = 64;

// What hearth-libvirt answers, or {"missing": why}. `program` empty: it is looked for.
nlohmann::json AskLibvirt(const std::string& program, std::vector<std::string> arguments);

// This host's: {"host": hearth.snapshot.v1.Host, "libvirt": {"model", "more", "fewer", "xml"}}.
// Each may be {"missing": why} instead.
nlohmann::json DescribeCpu(const std::string& libvirt_program);
// Out of that. INVALID_ARGUMENT: it is no host, or has no processor.
absl::StatusOr<hearth::snapshot::v1::Host> HostOf(const nlohmann::json& cpu);
// "AMD EPYC (AuthenticAMD, family 25 model 1 stepping 1, microcode 0xa0011d5, 190 features)"
std::string ProcessorText(const hearth::snapshot::v1::Host& host);
// "Skylake-Server, more: avx512vnni, fewer: mpx", or why it is missing.
std::string ModelText(const nlohmann::json& libvirt);

Check CpuCheck(const nlohmann::json& cpu);

// `doctor --baseline FILE...`: each file is a host's `doctor --json`.
int CompareHosts(Session& session, const DoctorOptions& options);

}  // namespace hearth::cli
