// SPDX-License-Identifier: Apache-2.0
// The commands of `hearth`, one function each. They answer the exit code, or throw CliError.
#pragma once

#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "cli/client.h"
#include "cli/config.h"
#include "cli/interrupt.h"
#include "cli/names.h"
#include "cli/terminal.h"

namespace hearth::cli {

struct GlobalOptions {
  std::string socket = kDefaultSocket;
  std::string tenant = "default";
  bool json = false;
  bool quiet = false;  // No progress and no remarks.
};

// What every command gets. The connection is made by the first that asks for it.
class Session {
 public:
  Session(const GlobalOptions& options, const Terminal& terminal, Interrupt* interrupt)
      : options(options), terminal(terminal), interrupt_(interrupt) {}
  Client& client() {
    if (!client_) client_ = std::make_unique<Client>(options.socket, interrupt_);
    return *client_;
  }

  const GlobalOptions& options;
  const Terminal& terminal;

 private:
  Interrupt* const interrupt_;
  std::unique_ptr<Client> client_;
};

// The name of the version that is meant: itself, an alias's, or the live one.
std::string VersionOf(Session& session, const FunctionRef& ref);

struct DeployOptions {
  std::string directory;
  std::string name;  // Empty: the folder's.
  FunctionConfig overrides;
  bool keep_live = false;
};
int Deploy(Session& session, const DeployOptions& options);

struct InvokeOptions {
  std::string name;
  std::string payload_file;  // "-" is stdin; empty: `data`.
  std::optional<std::string> data;
  std::string content_type;     // Empty: guessed.
  std::string output_file;      // Empty: stdout.
  std::string idempotency_key;  // Empty: none.
  std::string client_context;
  bool verbose = false;  // Tells where the time went.
};
int Invoke(Session& session, const InvokeOptions& options);

struct LogsOptions {
  std::string name;
  std::string invocation;  // Its id or name; empty: all.
  bool follow = false;
  int tail = 0;  // 0: all that are kept.
};
int Logs(Session& session, const LogsOptions& options);

struct ListOptions {
  std::string what = "functions";  // or versions, instances, invocations, runtimes
  std::string name;                // A function; empty: all of the tenant's.
  int limit = 100;
};
int List(Session& session, const ListOptions& options);

int Describe(Session& session, const std::string& name);

// Lines of "label   value", for describe.
class Lines {
 public:
  explicit Lines(std::ostream& out) : out_(out) {}
  // Nothing for an empty value.
  void Add(const std::string& label, const std::string& value);

 private:
  std::ostream& out_;
};

// Asks on the terminal; UsageError when nobody can be asked.
bool Confirmed(const Session& session, const std::string& question);
// Says so, and answers the exit code for it.
int NothingDeleted(const Session& session);

struct DeleteOptions {
  std::string name;
  bool yes = false;
};
int Delete(Session& session, const DeleteOptions& options);

struct SnapshotOptions {
  std::string
      name;  // A function, a version of it, or a snapshot's whole name; listing: empty is all.
  bool yes = false;
  int limit = 100;
};
int ListSnapshots(Session& session, const SnapshotOptions& options);
int DescribeSnapshot(Session& session, const SnapshotOptions& options);
int DeleteSnapshot(Session& session, const SnapshotOptions& options);
int RebuildSnapshot(Session& session, const SnapshotOptions& options);

int ListImages(Session& session);
int ListOutdated(Session& session);
int ReloadImages(Session& session);

struct UsageOptions {
  std::string name;        // A function; empty: the tenant.
  double since_hours = 0;  // 0: all that is kept.
};
int ShowUsage(Session& session, const UsageOptions& options);

struct DoctorOptions {
  std::string folder = "/var/lib/hearth";  // Where hearthd keeps its data: is there room?
  std::string probe;                       // hearth-kvm-probe; empty: beside `hearth`.
  std::string device = "/dev/kvm";
  std::string backend;                // kvm or libvirt: judge that one; empty: choose.
  std::string libvirt;                // hearth-libvirt; empty: beside `hearth`.
  std::vector<std::string> baseline;  // Hosts to be compared; empty: this one is judged.
};
int Doctor(Session& session, const DoctorOptions& options);

}  // namespace hearth::cli
