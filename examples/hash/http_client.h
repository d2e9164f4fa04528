// SPDX-License-Identifier: Apache-2.0
// As much of HTTP/1.1 as the Runtime API needs: one connection kept open, a request at a time,
// bodies with a Content-Length.
#pragma once

#include <map>
#include <string>
#include <string_view>

struct HttpResponse {
  int status = 0;
  std::map<std::string, std::string> headers;  // Names in lower case.
  std::string body;
};

class HttpClient {
 public:
  // `address`: "127.0.0.1:9001", as AWS_LAMBDA_RUNTIME_API gives it.
  explicit HttpClient(std::string address) : address_(std::move(address)) {}
  ~HttpClient() { Close(); }
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Waits for the answer, however long it takes. Throws std::runtime_error when there is none.
  HttpResponse Get(std::string_view path) { return Exchange("GET", path, "", ""); }
  HttpResponse Post(std::string_view path, std::string_view content_type, std::string_view body) {
    return Exchange("POST", path, content_type, body);
  }

 private:
  HttpResponse Exchange(std::string_view method, std::string_view path,
                        std::string_view content_type, std::string_view body);
  void Connect();
  void Close();
  void Send(std::string_view bytes);
  void Receive();  // Adds at least one byte to received_.
  std::string TakeLine();

  std::string address_;
  int socket_ = -1;
  std::string received_;  // What has come and was not used yet.
};
