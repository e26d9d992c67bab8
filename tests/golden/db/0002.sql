BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0002');
CREATE TABLE aliases (
	id INTEGER NOT NULL, 
	base_id INTEGER NOT NULL, 
	scheme VARCHAR(16) NOT NULL, 
	value VARCHAR(1024) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_aliases PRIMARY KEY (id), 
	CONSTRAINT uq_aliases_scheme_value UNIQUE (scheme, value), 
	CONSTRAINT fk_aliases_base_id_bases FOREIGN KEY(base_id) REFERENCES bases (id), 
	CONSTRAINT ck_aliases_scheme_known CHECK (scheme IN ('name', 'path', 'hub', 'sha256-set'))
);
INSERT INTO "aliases" VALUES(1,1,'path','/models/base','2026-11-21 13:20:03.393243');
INSERT INTO "aliases" VALUES(2,1,'hub','org/base@0000000000000000000000000000000000000000','2026-11-21 13:20:03.394431');
INSERT INTO "aliases" VALUES(3,1,'sha256-set','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','2026-11-21 13:20:03.395195');
CREATE TABLE applications (
	id INTEGER NOT NULL, 
	checkpoint_id INTEGER NOT NULL, 
	version_id INTEGER, 
	manifest_digest VARCHAR(71) NOT NULL, 
	kind VARCHAR(64) NOT NULL, 
	alpha DOUBLE, 
	device TEXT NOT NULL, 
	applied_at DATETIME NOT NULL, 
	verified_at DATETIME, 
	evidence TEXT NOT NULL, 
	policy TEXT NOT NULL, 
	CONSTRAINT pk_applications PRIMARY KEY (id), 
	CONSTRAINT fk_applications_checkpoint_id_checkpoints FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_applications_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id), 
	CONSTRAINT ck_applications_manifest_digest_digest CHECK (length(manifest_digest) = 71 AND substr(manifest_digest, 1, 7) = 'blake3:' AND ltrim(substr(manifest_digest, 8), '0123456789abcdef') = '')
);
INSERT INTO "applications" VALUES(1,1,3,'blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97','safety_lock',2.5,'cuda:0','2030-01-01 12:00:00.000000','2030-01-01 12:00:01.000000','{"modules":2,"worst":1e-7}','enforce');
INSERT INTO "applications" VALUES(2,1,NULL,'blake3:76ea1cfe2346880aa77a3909ef798014533fa81db07a990ab98f2fba83f47a8f','safety_lock',NULL,'cpu','2030-01-01 12:00:00.000000',NULL,'{}','warn');
INSERT INTO "applications" VALUES(3,2,3,'blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97','safety_lock',2.5,'cuda:0','2030-01-01 12:00:00.000000','2030-01-01 12:00:01.000000','{"modules":2,"worst":1e-7}','enforce');
INSERT INTO "applications" VALUES(4,2,NULL,'blake3:76ea1cfe2346880aa77a3909ef798014533fa81db07a990ab98f2fba83f47a8f','safety_lock',NULL,'cpu','2030-01-01 12:00:00.000000',NULL,'{}','warn');
CREATE TABLE artifacts (
	id INTEGER NOT NULL, 
	name VARCHAR(96) NOT NULL, 
	kind VARCHAR(64) NOT NULL, 
	base_id INTEGER NOT NULL, 
	sequence BIGINT DEFAULT '0' NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_artifacts PRIMARY KEY (id), 
	CONSTRAINT uq_artifacts_name UNIQUE (name), 
	CONSTRAINT fk_artifacts_base_id_bases FOREIGN KEY(base_id) REFERENCES bases (id), 
	CONSTRAINT ck_artifacts_sequence_natural CHECK (sequence >= 0)
);
INSERT INTO "artifacts" VALUES(1,'lock','safety_lock',1,0,'2026-11-21 13:20:03.462568');
INSERT INTO "artifacts" VALUES(2,'mask','esi_mask',1,0,'2026-11-21 13:20:03.567896');
CREATE TABLE bases (
	id INTEGER NOT NULL, 
	weights VARCHAR(71) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	family VARCHAR(64) NOT NULL, 
	layers INTEGER NOT NULL, 
	heads INTEGER NOT NULL, 
	kv_heads INTEGER NOT NULL, 
	head_dim INTEGER NOT NULL, 
	hidden_size INTEGER NOT NULL, 
	config_digest VARCHAR(71) NOT NULL, 
	tokenizer VARCHAR(71), 
	chat_template VARCHAR(71), 
	record_blob VARCHAR(71) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_bases PRIMARY KEY (id), 
	CONSTRAINT uq_bases_weights UNIQUE (weights), 
	CONSTRAINT uq_bases_name UNIQUE (name), 
	CONSTRAINT fk_bases_record_blob_blobs FOREIGN KEY(record_blob) REFERENCES blobs (digest), 
	CONSTRAINT ck_bases_weights_digest CHECK (length(weights) = 71 AND substr(weights, 1, 7) = 'blake3:' AND ltrim(substr(weights, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_bases_config_digest_digest CHECK (length(config_digest) = 71 AND substr(config_digest, 1, 7) = 'blake3:' AND ltrim(substr(config_digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_bases_tokenizer_digest CHECK (length(tokenizer) = 71 AND substr(tokenizer, 1, 7) = 'blake3:' AND ltrim(substr(tokenizer, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_bases_chat_template_digest CHECK (length(chat_template) = 71 AND substr(chat_template, 1, 7) = 'blake3:' AND ltrim(substr(chat_template, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_bases_geometry_positive CHECK (layers > 0 AND heads > 0 AND kv_heads > 0 AND head_dim > 0 AND hidden_size > 0)
);
INSERT INTO "bases" VALUES(1,'blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d','base','llama',2,4,2,16,64,'blake3:fb481ae1bca52b5022f9d199732bef6f923eb13a85c83ea8cbec823274f41ad7','blake3:3b50f290e0da181db5eb6761a08f014c5a23374f55c916a6cbca8d611baace8a',NULL,'blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0','2026-11-21 13:20:03.388369');
INSERT INTO "bases" VALUES(2,'blake3:3f796163ebf94718de1cd7582655c012f995c06f1e6970ea2bdc15bcd88a324a','it''s a "bäse" ☃; --','llama',2,4,2,16,64,'blake3:b90ddb3d1cd26e387ed70567e561da38ab0a68c8f8b1fbaec4f09a6ba2a67a11','blake3:90de8a51eb9a4b38741c8da5326a96679bd1d9be028bff7beb85a34f6f011037',NULL,'blake3:a52a87522dd111430ba758d16f1a08a9b225f5ebe9a2e5c659fc1437c0a8d311','2026-11-21 13:20:03.411772');
CREATE TABLE blobs (
	digest VARCHAR(71) NOT NULL, 
	size BIGINT NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_blobs PRIMARY KEY (digest), 
	CONSTRAINT ck_blobs_digest_digest CHECK (length(digest) = 71 AND substr(digest, 1, 7) = 'blake3:' AND ltrim(substr(digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_blobs_size_natural CHECK (size >= 0)
);
INSERT INTO "blobs" VALUES('blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0',14,'2026-11-21 13:20:03.386770');
INSERT INTO "blobs" VALUES('blake3:a52a87522dd111430ba758d16f1a08a9b225f5ebe9a2e5c659fc1437c0a8d311',15,'2026-11-21 13:20:03.410963');
INSERT INTO "blobs" VALUES('blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9',875,'2026-11-21 13:20:03.466248');
INSERT INTO "blobs" VALUES('blake3:7798139bc16820ae05b9dcd9fab2088ca1d08dc8e044278597f8323df7af3940',7,'2026-11-21 13:20:03.466591');
INSERT INTO "blobs" VALUES('blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6',840,'2026-11-21 13:20:03.499074');
INSERT INTO "blobs" VALUES('blake3:cd85637651ec7a557bddd61c5ddd1df21ad8bbbaf6c3c098482b3ed1c1014964',6,'2026-11-21 13:20:03.499358');
INSERT INTO "blobs" VALUES('blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97',838,'2026-11-21 13:20:03.532147');
INSERT INTO "blobs" VALUES('blake3:42f1d0a285aebbec81c29b9e334aaa322f6f24ac7d5f14c3b89aa50a9bc7b2d1',5,'2026-11-21 13:20:03.532629');
INSERT INTO "blobs" VALUES('blake3:88e1d1a733fff403c06a8fc8b168c936925027c60245dfae79c19e31c33cb224',844,'2026-11-21 13:20:03.574283');
CREATE TABLE checkpoints (
	id INTEGER NOT NULL, 
	weights VARCHAR(71) NOT NULL, 
	base_id INTEGER, 
	relation TEXT NOT NULL, 
	evidence_level INTEGER NOT NULL, 
	distance DOUBLE, 
	config_digest VARCHAR(71), 
	locator TEXT, 
	first_seen DATETIME NOT NULL, 
	last_seen DATETIME NOT NULL, 
	CONSTRAINT pk_checkpoints PRIMARY KEY (id), 
	CONSTRAINT uq_checkpoints_weights UNIQUE (weights), 
	CONSTRAINT fk_checkpoints_base_id_bases FOREIGN KEY(base_id) REFERENCES bases (id), 
	CONSTRAINT ck_checkpoints_weights_digest CHECK (length(weights) = 71 AND substr(weights, 1, 7) = 'blake3:' AND ltrim(substr(weights, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_checkpoints_config_digest_digest CHECK (length(config_digest) = 71 AND substr(config_digest, 1, 7) = 'blake3:' AND ltrim(substr(config_digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_checkpoints_evidence_level_known CHECK (evidence_level BETWEEN 0 AND 4), 
	CONSTRAINT ck_checkpoints_distance_natural CHECK (distance >= 0)
);
INSERT INTO "checkpoints" VALUES(1,'blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44',1,'derived',3,0.00125,'blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7','/models/tune \x00','2026-11-21 13:20:03.580755','2026-11-21 13:20:03.580755');
INSERT INTO "checkpoints" VALUES(2,'blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e',NULL,'unrelated',2,1.4,'blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7','/models/stranger \x00','2026-11-21 13:20:03.642405','2026-11-21 13:20:03.642405');
CREATE TABLE events (
	sequence INTEGER NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	actor TEXT NOT NULL, 
	action VARCHAR(64) NOT NULL, 
	subject TEXT NOT NULL, 
	detail TEXT NOT NULL, 
	previous_digest VARCHAR(71) NOT NULL, 
	digest VARCHAR(71) NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (sequence), 
	CONSTRAINT uq_events_digest UNIQUE (digest), 
	CONSTRAINT ck_events_previous_digest_digest CHECK (length(previous_digest) = 71 AND substr(previous_digest, 1, 7) = 'blake3:' AND ltrim(substr(previous_digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_events_digest_digest CHECK (length(digest) = 71 AND substr(digest, 1, 7) = 'blake3:' AND ltrim(substr(digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_events_sequence_positive CHECK (sequence > 0)
);
INSERT INTO "events" VALUES(1,'2026-11-21T13:20:03.390783Z','publisher','base.register','base','{"record":"blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0","weights":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d"}','blake3:0000000000000000000000000000000000000000000000000000000000000000','blake3:92a98aab472072a87ef78ae5e66fd8f66fa6199b7ef233b34730f7616402680f');
INSERT INTO "events" VALUES(2,'2026-11-21T13:20:03.396328Z','publisher','base.alias','base','{"aliases":["path:/models/base","hub:org/base@0000000000000000000000000000000000000000","sha256-set:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]}','blake3:92a98aab472072a87ef78ae5e66fd8f66fa6199b7ef233b34730f7616402680f','blake3:cd2d7a5e8ae112b39285de052ee37d110a53c011dfe6efdfc79c8abf6196f481');
INSERT INTO "events" VALUES(3,'2026-11-21T13:20:03.412859Z','publisher','base.register','it''s a "bäse" ☃; --','{"record":"blake3:a52a87522dd111430ba758d16f1a08a9b225f5ebe9a2e5c659fc1437c0a8d311","weights":"blake3:3f796163ebf94718de1cd7582655c012f995c06f1e6970ea2bdc15bcd88a324a"}','blake3:cd2d7a5e8ae112b39285de052ee37d110a53c011dfe6efdfc79c8abf6196f481','blake3:061fc1496928bbc8acff548ecf0f46f551e184f9ca2f4a870223bee784e2faed');
INSERT INTO "events" VALUES(4,'2026-11-21T13:20:03.468039Z','publisher','version.publish','lock@1.0.0','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9","kind":"safety_lock"}','blake3:061fc1496928bbc8acff548ecf0f46f551e184f9ca2f4a870223bee784e2faed','blake3:9dfe823d7038b285eb4e30540d1fe0cda60d502b1bfb381e1abf14b72b9787d8');
INSERT INTO "events" VALUES(5,'2026-11-21T13:20:03.479722Z','publisher','version.revoke','lock@1.0.0','{"digest":"blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9","reason":"negated ''directions''\n"}','blake3:9dfe823d7038b285eb4e30540d1fe0cda60d502b1bfb381e1abf14b72b9787d8','blake3:b6d3ebbaea1c2cf79704265dc98aa113db169f7fd154060e9ab058bfc9e503a8');
INSERT INTO "events" VALUES(6,'2026-11-21T13:20:03.500154Z','publisher','version.publish','lock@1.1rc1','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6","kind":"safety_lock"}','blake3:b6d3ebbaea1c2cf79704265dc98aa113db169f7fd154060e9ab058bfc9e503a8','blake3:c4ad430c5c4a2aa778b4fe28560510075a475c4afb2a53b0172cc7aceee1b3dd');
INSERT INTO "events" VALUES(7,'2026-11-21T13:20:03.510918Z','publisher','version.yank','lock@1.1rc1','{"digest":"blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6","reason":"too weak"}','blake3:c4ad430c5c4a2aa778b4fe28560510075a475c4afb2a53b0172cc7aceee1b3dd','blake3:04a329c33fb6fe3029fbe4127d0b7b886778ab4cea08b2fae6f723907ad3e3ba');
INSERT INTO "events" VALUES(8,'2026-11-21T13:20:03.537861Z','publisher','version.publish','lock@1.10','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","kind":"safety_lock"}','blake3:04a329c33fb6fe3029fbe4127d0b7b886778ab4cea08b2fae6f723907ad3e3ba','blake3:622486f77e4b0d78f422ed39107b1b3f41d560674702d0bce936ac554c75bc2a');
INSERT INTO "events" VALUES(9,'2026-11-21T13:20:03.576275Z','publisher','version.publish','mask@2!1.0+local.1','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:88e1d1a733fff403c06a8fc8b168c936925027c60245dfae79c19e31c33cb224","kind":"esi_mask"}','blake3:622486f77e4b0d78f422ed39107b1b3f41d560674702d0bce936ac554c75bc2a','blake3:6cfbe1f41bed1fd03eb08abca2c314d4409ef4390bba77119e962f7e5d33a134');
INSERT INTO "events" VALUES(10,'2026-11-21T13:20:03.584901Z','publisher','checkpoint.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","config_digest":"blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7","distance":0.00125,"evidence_level":3,"locator":"/models/tune \\x00","relation":"derived"}','blake3:6cfbe1f41bed1fd03eb08abca2c314d4409ef4390bba77119e962f7e5d33a134','blake3:42cc984c390d34ae1e4f19aaed2f445a98187add85d5371dbf848bccfcbb84a8');
INSERT INTO "events" VALUES(11,'2026-11-21T13:20:03.597749Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"lineage","verdict":"derived"}','blake3:42cc984c390d34ae1e4f19aaed2f445a98187add85d5371dbf848bccfcbb84a8','blake3:6ac0e85f974b6f85787a9041223a80882b0e1eed699dfa70ec7db89a4509fb56');
INSERT INTO "events" VALUES(12,'2026-11-21T13:20:03.604018Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"check","verdict":"derived"}','blake3:6ac0e85f974b6f85787a9041223a80882b0e1eed699dfa70ec7db89a4509fb56','blake3:e997c9c660a931abd1dce159826b10f9e23256977795355fb40f297adc913d94');
INSERT INTO "events" VALUES(13,'2026-11-21T13:20:03.612590Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"inspect","verdict":"derived"}','blake3:e997c9c660a931abd1dce159826b10f9e23256977795355fb40f297adc913d94','blake3:5178596ff08d0f96946681b63114cd6c6bd967e427331c0e81eabadfb07af96c');
INSERT INTO "events" VALUES(14,'2026-11-21T13:20:03.623612Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"audit","verdict":"derived"}','blake3:5178596ff08d0f96946681b63114cd6c6bd967e427331c0e81eabadfb07af96c','blake3:1d75d77ed8da9d55a324760c3bd64bbbaecc6ce7f2c83ae4e685f58615ae399f');
INSERT INTO "events" VALUES(15,'2026-11-21T13:20:03.634577Z','publisher','application.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"alpha":2.5,"applied_at":"2030-01-01T12:00:00+00:00","device":"cuda:0","evidence":"blake3:26bd63e00aa7b0b46616c0621655c3bc44aadc8f3f4be3523339bfa4d37f178e","kind":"safety_lock","manifest_digest":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","policy":"enforce","verified_at":"2030-01-01T12:00:01+00:00"}','blake3:1d75d77ed8da9d55a324760c3bd64bbbaecc6ce7f2c83ae4e685f58615ae399f','blake3:e795d9624e3bbf8f6548504874539fae5976c063f5fb4edd988ee33570a13bb8');
INSERT INTO "events" VALUES(16,'2026-11-21T13:20:03.637809Z','publisher','application.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"alpha":null,"applied_at":"2030-01-01T12:00:00+00:00","device":"cpu","evidence":"blake3:6e46dd10defc9b56c29a6ec56b508c21f54c08192194e4df25bf36f0c9c3c279","kind":"safety_lock","manifest_digest":"blake3:76ea1cfe2346880aa77a3909ef798014533fa81db07a990ab98f2fba83f47a8f","policy":"warn","verified_at":null}','blake3:e795d9624e3bbf8f6548504874539fae5976c063f5fb4edd988ee33570a13bb8','blake3:32fb09116379b8beff82fa042a845460498551b2172764cf6f116a868d16e477');
INSERT INTO "events" VALUES(17,'2026-11-21T13:20:03.643511Z','publisher','checkpoint.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"base":null,"config_digest":"blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7","distance":1.4,"evidence_level":2,"locator":"/models/stranger \\x00","relation":"unrelated"}','blake3:32fb09116379b8beff82fa042a845460498551b2172764cf6f116a868d16e477','blake3:1da64eb056e6c9cbf7ee3c2a1d90011ca3ba28aab113fe2ff33430cf0bdc8f77');
INSERT INTO "events" VALUES(18,'2026-11-21T13:20:03.655332Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"lineage","verdict":"unrelated"}','blake3:1da64eb056e6c9cbf7ee3c2a1d90011ca3ba28aab113fe2ff33430cf0bdc8f77','blake3:bd326d5562e3ed085dc3f148d590e3d0a1e4f74c72530e6125c08cecebefc5b7');
INSERT INTO "events" VALUES(19,'2026-11-21T13:20:03.667304Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"check","verdict":"unrelated"}','blake3:bd326d5562e3ed085dc3f148d590e3d0a1e4f74c72530e6125c08cecebefc5b7','blake3:ce741ea299fed69e5654a02b4eecdbe7fab8558348f7908033acf2a5ef4f24ce');
INSERT INTO "events" VALUES(20,'2026-11-21T13:20:03.670453Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"inspect","verdict":"unrelated"}','blake3:ce741ea299fed69e5654a02b4eecdbe7fab8558348f7908033acf2a5ef4f24ce','blake3:489b935f3063bd89697f11e17aa35138e92ca9a8ce93b0c5f67960f660ef06a6');
INSERT INTO "events" VALUES(21,'2026-11-21T13:20:03.675067Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"audit","verdict":"unrelated"}','blake3:489b935f3063bd89697f11e17aa35138e92ca9a8ce93b0c5f67960f660ef06a6','blake3:93b482d12bd9f8deba00aaba9096e34347f7f44d9f2ac69662caabb28a1dbb55');
INSERT INTO "events" VALUES(22,'2026-11-21T13:20:03.678135Z','publisher','application.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"alpha":2.5,"applied_at":"2030-01-01T12:00:00+00:00","device":"cuda:0","evidence":"blake3:26bd63e00aa7b0b46616c0621655c3bc44aadc8f3f4be3523339bfa4d37f178e","kind":"safety_lock","manifest_digest":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","policy":"enforce","verified_at":"2030-01-01T12:00:01+00:00"}','blake3:93b482d12bd9f8deba00aaba9096e34347f7f44d9f2ac69662caabb28a1dbb55','blake3:dd29d0d7ae16f899613c885b1c2ce63917148514a50f5fa7008bab133e7b28e8');
INSERT INTO "events" VALUES(23,'2026-11-21T13:20:03.681139Z','publisher','application.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"alpha":null,"applied_at":"2030-01-01T12:00:00+00:00","device":"cpu","evidence":"blake3:6e46dd10defc9b56c29a6ec56b508c21f54c08192194e4df25bf36f0c9c3c279","kind":"safety_lock","manifest_digest":"blake3:76ea1cfe2346880aa77a3909ef798014533fa81db07a990ab98f2fba83f47a8f","policy":"warn","verified_at":null}','blake3:dd29d0d7ae16f899613c885b1c2ce63917148514a50f5fa7008bab133e7b28e8','blake3:ccdde766048e8b6f38f850196c6a97cd86aeb030044863fdd254d8751a166f52');
INSERT INTO "events" VALUES(24,'2026-11-21T13:20:03.682492Z','publisher','load.unprotected','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"reason":"a test"}','blake3:ccdde766048e8b6f38f850196c6a97cd86aeb030044863fdd254d8751a166f52','blake3:cc9baf1ef52f6583eb1deae3aaf8e4d5c2033311461533d5c1aeb34032857ce3');
CREATE TABLE registry (
	one INTEGER NOT NULL, 
	id VARCHAR(32) NOT NULL, 
	CONSTRAINT pk_registry PRIMARY KEY (one), 
	CONSTRAINT ck_registry_one_row CHECK (one = 1), 
	CONSTRAINT ck_registry_id_hex CHECK (length(id) = 32 AND ltrim(id, '0123456789abcdef') = '')
);
INSERT INTO "registry" VALUES(1,'d0bc1ddc18b888300b3940ef419dd177');
CREATE TABLE reports (
	id INTEGER NOT NULL, 
	checkpoint_id INTEGER NOT NULL, 
	version_id INTEGER, 
	kind VARCHAR(16) NOT NULL, 
	verdict TEXT NOT NULL, 
	body TEXT NOT NULL, 
	tool_version VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_reports PRIMARY KEY (id), 
	CONSTRAINT fk_reports_checkpoint_id_checkpoints FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_reports_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id), 
	CONSTRAINT ck_reports_kind_known CHECK (kind IN ('lineage', 'check', 'inspect', 'audit'))
);
INSERT INTO "reports" VALUES(1,1,3,'lineage','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 13:20:03.591906');
INSERT INTO "reports" VALUES(2,1,3,'check','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 13:20:03.603061');
INSERT INTO "reports" VALUES(3,1,3,'inspect','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 13:20:03.611443');
INSERT INTO "reports" VALUES(4,1,3,'audit','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 13:20:03.622826');
INSERT INTO "reports" VALUES(5,2,3,'lineage','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 13:20:03.654710');
INSERT INTO "reports" VALUES(6,2,3,'check','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 13:20:03.666666');
INSERT INTO "reports" VALUES(7,2,3,'inspect','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 13:20:03.670037');
INSERT INTO "reports" VALUES(8,2,3,'audit','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 13:20:03.674561');
CREATE TABLE version_files (
	version_id INTEGER NOT NULL, 
	path VARCHAR(128) NOT NULL, 
	blob VARCHAR(71) NOT NULL, 
	CONSTRAINT pk_version_files PRIMARY KEY (version_id, path), 
	CONSTRAINT fk_version_files_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id), 
	CONSTRAINT fk_version_files_blob_blobs FOREIGN KEY(blob) REFERENCES blobs (digest)
);
INSERT INTO "version_files" VALUES(1,'base.safetensors','blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0');
INSERT INTO "version_files" VALUES(1,'manifest.json','blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9');
INSERT INTO "version_files" VALUES(1,'tensors.safetensors','blake3:7798139bc16820ae05b9dcd9fab2088ca1d08dc8e044278597f8323df7af3940');
INSERT INTO "version_files" VALUES(2,'base.safetensors','blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0');
INSERT INTO "version_files" VALUES(2,'manifest.json','blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6');
INSERT INTO "version_files" VALUES(2,'tensors.safetensors','blake3:cd85637651ec7a557bddd61c5ddd1df21ad8bbbaf6c3c098482b3ed1c1014964');
INSERT INTO "version_files" VALUES(3,'base.safetensors','blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0');
INSERT INTO "version_files" VALUES(3,'manifest.json','blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97');
INSERT INTO "version_files" VALUES(3,'tensors.safetensors','blake3:42f1d0a285aebbec81c29b9e334aaa322f6f24ac7d5f14c3b89aa50a9bc7b2d1');
INSERT INTO "version_files" VALUES(4,'base.safetensors','blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0');
INSERT INTO "version_files" VALUES(4,'manifest.json','blake3:88e1d1a733fff403c06a8fc8b168c936925027c60245dfae79c19e31c33cb224');
INSERT INTO "version_files" VALUES(4,'tensors.safetensors','blake3:7798139bc16820ae05b9dcd9fab2088ca1d08dc8e044278597f8323df7af3940');
CREATE TABLE versions (
	id INTEGER NOT NULL, 
	artifact_id INTEGER NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	version_order VARCHAR(512) NOT NULL, 
	manifest_digest VARCHAR(71) NOT NULL, 
	state VARCHAR(16) DEFAULT 'active' NOT NULL, 
	state_reason TEXT, 
	signature_blob VARCHAR(71), 
	key_id VARCHAR(128), 
	not_before DATETIME, 
	expires_at DATETIME, 
	published_at DATETIME NOT NULL, 
	CONSTRAINT pk_versions PRIMARY KEY (id), 
	CONSTRAINT uq_versions_manifest_digest UNIQUE (manifest_digest), 
	CONSTRAINT uq_versions_artifact_id_version UNIQUE (artifact_id, version), 
	CONSTRAINT uq_versions_artifact_id_version_order UNIQUE (artifact_id, version_order), 
	CONSTRAINT fk_versions_artifact_id_artifacts FOREIGN KEY(artifact_id) REFERENCES artifacts (id), 
	CONSTRAINT fk_versions_signature_blob_blobs FOREIGN KEY(signature_blob) REFERENCES blobs (digest), 
	CONSTRAINT ck_versions_manifest_digest_digest CHECK (length(manifest_digest) = 71 AND substr(manifest_digest, 1, 7) = 'blake3:' AND ltrim(substr(manifest_digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_versions_state_known CHECK (state IN ('active', 'yanked', 'revoked'))
);
INSERT INTO "versions" VALUES(1,1,'1.0.0','010101102010','blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9','revoked','negated ''directions''
',NULL,NULL,'2030-01-01 00:00:00.000000','2031-01-01 00:00:00.000000','2026-11-21 13:20:03.462568');
INSERT INTO "versions" VALUES(2,1,'1.1rc1','0101011101101r011010','blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6','yanked','too weak',NULL,NULL,NULL,NULL,'2026-11-21 13:20:03.497979');
INSERT INTO "versions" VALUES(3,1,'1.10','01010111021002010','blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97','active',NULL,NULL,NULL,NULL,NULL,'2026-11-21 13:20:03.530978');
INSERT INTO "versions" VALUES(4,2,'2!1.0+local.1','0121011020111local.20110','blake3:88e1d1a733fff403c06a8fc8b168c936925027c60245dfae79c19e31c33cb224','active',NULL,NULL,NULL,NULL,NULL,'2026-11-21 13:20:03.567896');
CREATE INDEX ix_bases_geometry ON bases (family, layers, heads, kv_heads, head_dim, hidden_size);
CREATE INDEX ix_aliases_base_id ON aliases (base_id);
CREATE INDEX ix_aliases_value ON aliases (value);
CREATE INDEX ix_artifacts_base_id ON artifacts (base_id);
CREATE INDEX ix_version_files_blob ON version_files (blob);
CREATE INDEX ix_checkpoints_base_id ON checkpoints (base_id);
CREATE INDEX ix_reports_checkpoint_id_kind ON reports (checkpoint_id, kind);
CREATE INDEX ix_reports_version_id ON reports (version_id);
CREATE INDEX ix_applications_checkpoint_id ON applications (checkpoint_id);
CREATE INDEX ix_applications_version_id ON applications (version_id);
CREATE INDEX ix_applications_manifest_digest ON applications (manifest_digest);
CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are only appended: none is changed or removed'); END;
CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are only appended: none is changed or removed'); END;
COMMIT;
