// SPDX-License-Identifier: Apache-2.0
// A hearthd for tests of the CLI: the real services over a real Unix socket, with answers that a
// test sets and requests that it can look at.
#pragma once

#include <grpcpp/grpcpp.h>

#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "google/longrunning/operations.grpc.pb.h"
#include "hearth/v1/services.grpc.pb.h"

namespace hearth::cli {

// Makes a folder and removes it with all that is in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "hearth-cli-XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~TemporaryFolder() {
    std::error_code error;
    std::filesystem::remove_all(path, error);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string operator/(const std::string& name) const { return path / name; }

  std::filesystem::path path;
};

class FakeHearthd {
 public:
  explicit FakeHearthd(const std::string& socket);
  ~FakeHearthd();

  // What was asked for; set by the services, read by the test when the command has ended.
  hearth::v1::CreateVersionRequest created_version;
  hearth::v1::InvokeRequest invoked;
  hearth::v1::TailLogsRequest tailed;
  hearth::v1::QueryUsageRequest usage_request;
  std::vector<std::string> calls;  // Methods, in the order of their calls.
  std::string described;           // A function's description.
  std::string uploaded;            // All chunks.
  hearth::v1::UploadArtifactRequest::Header upload_header;
  std::string invoke_payload;
  std::promise<void> response_held;  // With hold_response: `started` was said;
  std::promise<void> client_left;    // and then the client left.

  // What is answered.
  bool function_exists = false;
  bool artifact_exists = false;
  grpc::Status upload_status;
  google::rpc::Status deploy_error;  // Code 0: none.
  int waits = 1;                     // WaitOperation answers "not done" so often.
  std::function<void()> waited;      // Called by WaitOperation first.
  grpc::Status invoke_status;        // When not OK, answered before anything was read.
  hearth::v1::Invocation invocation;
  std::string response;
  std::string response_type = "application/json";
  bool cut_response = false;   // Ends the stream without `finished`.
  bool hold_response = false;  // Says `started`, then nothing until the client has left.
  std::vector<hearth::v1::LogEntry> log;
  hearth::v1::QueryUsageResponse usage;
  hearth::v1::Snapshot snapshot;  // Without a name: there is none.
  hearth::v1::ReloadImagesResponse reloaded;
  hearth::v1::ListOutdatedResponse outdated;
  int function_count = 1;  // For ListFunctions, in pages of two.
  grpc::Status list_status;

 private:
  class Services;
  std::unique_ptr<Services> services_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace hearth::cli
